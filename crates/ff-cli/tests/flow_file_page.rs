//! The examples of the reference page for flow files behave as the page says.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use support::ff_with_input;

/// The fenced blocks of a page: the text after the fence, and the lines.
fn blocks(page: &str) -> Vec<(&str, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```").filter(|kind| !kind.starts_with('`')) else { continue };
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push((kind, block.join("\n") + "\n"));
    }
    blocks
}

#[tokio::test]
async fn every_example_of_the_reference_page_does_what_the_page_says() {
    let page = include_str!("../../../docs/flow-file.md");
    let blocks = blocks(page);
    let (mut run, mut refused) = (0, 0);
    for (index, (kind, block)) in blocks.iter().enumerate() {
        match *kind {
            "yaml" => {
                let finished = ff_with_input(&["run", "-"], block).await;
                assert_eq!(finished.code, 0, "{block}\n{finished:?}");
                // The note about the backend, and no hint.
                assert_eq!(finished.stderr.lines().count(), 1, "{block}\n{finished:?}");
                run += 1;
            }
            "yaml refused" => {
                let (_, said) = &blocks[index + 1];
                ff_with_input(&["run", "-"], block).await.refused(2, &[said.trim()]);
                refused += 1;
            }
            "text" => {}
            other => panic!("a block of the kind `{other}`, which no test looks at"),
        }
    }
    assert!(run >= 4 && refused >= 2, "{run} {refused}");
}

#[tokio::test]
async fn every_key_of_a_flow_file_is_on_the_reference_page() {
    let page = include_str!("../../../docs/flow-file.md");
    for (input, at_least) in [("x: 1\n", 5), ("executions: {a: {x: 1}}\n", 11)] {
        let refused = ff_with_input(&["run", "-"], input).await;
        let known = refused.stderr.split("known are ").nth(1).unwrap();
        let keys: Vec<&str> = known.split('`').skip(1).step_by(2).take_while(|key| !key.starts_with("x-")).collect();
        assert!(keys.len() >= at_least, "{keys:?}");
        for key in keys {
            assert!(
                page.lines().any(|line| line.starts_with("| `") && line.contains(&format!("`{key}`")))
                    || key.contains(' '),
                "`{key}` is not on the page"
            );
        }
    }
}
