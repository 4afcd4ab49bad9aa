//! One table of edge cases, run on the embedded host and on a real server, with the answers compared.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use ff_embedded::{Clock, EmbeddedHost, Value};
use ff_testserver::{RawClient, Reply, TestServer};

const LIBRARY: &str = include_str!("parity.lua");

/// Both hosts, with the library loaded.
struct Both {
    embedded: EmbeddedHost,
    client: RawClient,
    differences: Vec<String>,
    _server: TestServer,
}

impl Both {
    async fn start() -> Self {
        let server = TestServer::start().await.unwrap();
        let mut client = server.client().await.unwrap();
        let loaded = client.command(&["FUNCTION", "LOAD", LIBRARY]).await.unwrap();
        assert!(!loaded.is_error(), "{}", loaded.text());
        let embedded = EmbeddedHost::new(Clock::Real, 1);
        embedded.load(LIBRARY).unwrap();
        Self { embedded, client, differences: Vec::new(), _server: server }
    }

    /// Calls a function on both and returns both replies.
    async fn call(&mut self, command: &str, function: &str, keys: &[&[u8]], args: &[&[u8]]) -> Reply {
        let count = keys.len().to_string();
        let mut words: Vec<&[u8]> = vec![command.as_bytes(), function.as_bytes(), count.as_bytes()];
        words.extend(keys.iter().chain(args));
        let server = self.client.command(&words).await.unwrap();
        let embedded = match command {
            "FCALL_RO" => self.embedded.call_read_only(function, keys, args),
            _ => self.embedded.call(function, keys, args),
        };
        let embedded = match embedded {
            Ok(value) => reply(value),
            Err(error) => without_function(&Reply::Error(error.text().to_owned())),
        };
        if embedded != without_function(&server) {
            let words: Vec<_> = words.iter().map(|word| word.escape_ascii().to_string()).collect();
            self.differences.push(format!(
                "{}\n  embedded {}\n  server   {}",
                words.join(" "),
                shown(&embedded),
                shown(&server)
            ));
        }
        server
    }

    fn finish(self) {
        let Self { differences, .. } = self;
        assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    }

    /// Runs a command given as words.
    async fn command(&mut self, words: &str) {
        let words: Vec<&[u8]> = words.split(' ').map(str::as_bytes).collect();
        self.run(&words).await;
    }

    /// Runs a command; its first argument is declared as the key that it may create.
    async fn run(&mut self, words: &[&[u8]]) {
        self.call("FCALL", "run", words.get(1..2).unwrap_or_default(), words).await;
    }

    async fn commands(&mut self, lines: &str) {
        for line in list(lines) {
            self.command(line).await;
        }
    }

    /// Runs commands that change nothing, also through `pcall` and inspected from inside the function.
    async fn reads(&mut self, lines: &str) {
        for line in list(lines) {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            for function in ["run", "try", "kind", "writes_nothing"] {
                self.call("FCALL", function, &[], &words).await;
            }
        }
    }
}

/// The parts of a list written as `one; two`.
fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split("; ")
}

/// A reply in readable form.
fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Bulk(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Reply::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(", ")),
        other => format!("{other:?}"),
    }
}

/// Some server versions name the function before the position of an error, some do not.
fn without_function(reply: &Reply) -> Reply {
    let Reply::Error(text) = reply else { return reply.clone() };
    let shortened = text.split_once(" script: ").and_then(|(text, place)| {
        let (_, place) = place.split_once("on @")?;
        Some(format!("{text} script: on @{place}"))
    });
    Reply::Error(shortened.unwrap_or_else(|| text.clone()))
}

fn reply(value: Value<'_>) -> Reply {
    match value {
        Value::Nil => Reply::Nil,
        Value::Integer(number) => Reply::Int(number),
        Value::Status(text) => Reply::Status(String::from_utf8_lossy(&text).into_owned()),
        Value::Bulk(bytes) => Reply::Bulk(bytes.into_owned()),
        Value::Array(items) => Reply::Array(items.into_iter().map(reply).collect()),
    }
}

const THINGS: &str = "HSET hash a 1 b  c 3; ZADD set 1 a 2 b 2.5 c 3 d; ZADD lex 0 a 0 b 0 ba 0 c 0 d; XADD log 5-* a 1; \
     XADD log 5-* a 2 b 3; XADD log 7-3 a 1";

#[tokio::test]
async fn hashes_behave_as_on_the_server() {
    let mut both = Both::start().await;
    both.commands(THINGS).await;
    both.commands("HSET hash a 2 d 4; HSET hash a 2; HSET hash a 1 b; HSET hash a; HSET; HSET set a 1").await;
    both.reads(
        "HGET hash a; HGET hash b; HGET hash x; HGET none a; HGET set a; HGET hash; HMGET hash a x c b; \
         HMGET none a b; HMGET log a; HMGET hash; HEXISTS hash a; HEXISTS hash x; HEXISTS none a; \
         HEXISTS set a; HSTRLEN hash a; HSTRLEN hash x; HSTRLEN none a; \
         HSTRLEN set a; HLEN hash; HLEN none; HLEN set; HKEYS none; HKEYS set; hget hash a",
    )
    .await;
    both.commands(
        "HDEL hash x; HDEL hash a a b; HDEL none a; HDEL set a; HDEL hash d; HKEYS hash; HDEL hash c; \
         EXISTS hash; TYPE hash",
    )
    .await;
    both.finish();
}

#[tokio::test]
async fn sorted_sets_behave_as_on_the_server() {
    let mut both = Both::start().await;
    both.commands(THINGS).await;
    both.commands(
        "ZADD set 9 a 1 new; ZADD set 9 a; ZADD set x a; ZADD set 1 a x b; ZADD set nan a; ZADD set 1 a 2; \
         ZADD set 1; ZADD hash 1 a; ZADD set -inf low inf high; ZADD set 1e3 e 0.1 f -0 g; ZADD set 9 tie",
    )
    .await;
    both.reads(
        "ZSCORE set a; ZSCORE set x; ZSCORE none a; ZSCORE hash a; ZSCORE set high; ZSCORE set f; ZSCORE set g; \
         ZCARD set; ZCARD none; ZCARD hash; ZRANGE set 0 -1; ZRANGE set 0 -1 WITHSCORES; \
         ZRANGE set 0 0 withscores; ZRANGE set 1 2; ZRANGE set -2 -1; ZRANGE set -100 1; ZRANGE set 5 2; \
         ZRANGE set 100 200; ZRANGE set 0 -100; ZRANGE set a b; ZRANGE set 0 1.5; ZRANGE set 0 1 NONSENSE; \
         ZRANGE none 0 -1; ZRANGE hash 0 -1; ZRANGE set 0",
    )
    .await;
    for range in list(
        "-inf +inf; -inf inf; -inf (2; (1 2.5; 2 (3 LIMIT 1 5; -inf inf LIMIT 0 2; -inf inf LIMIT 1 -1; \
         -inf inf LIMIT -1 2; -inf inf LIMIT 0 0; 3 1; (2 (2; 2 2; x 1; 1 x; 1 (; -inf inf LIMIT 0; \
         -inf inf LIMIT a b; -inf inf NONSENSE; (-inf inf; -inf (inf",
    ) {
        both.reads(&format!("ZRANGEBYSCORE set {range}")).await;
    }
    both.reads("ZRANGEBYSCORE none 0 1; ZRANGEBYSCORE hash 0 1; ZRANGEBYSCORE set 0").await;
    for range in list(
        "- +; [b (c; (b [c; (b +; - [b; - + LIMIT 1 2; - + LIMIT 0 0; - + LIMIT 1 -1; - + LIMIT -1 1; \
         - + LIMIT 9 1; + -; [c [a; (b (b; [b [b; a b; [a b; - + LIMIT 1; - + NONSENSE 1 2; [ [; [ +; ( +; - (; \
         [bb [bz",
    ) {
        both.reads(&format!("ZRANGEBYLEX lex {range}")).await;
    }
    both.reads("ZRANGEBYLEX none - +; ZRANGEBYLEX hash - +; ZRANGEBYLEX lex -").await;
    both.commands("ZREM set a x a; ZREM none a; ZREM hash a; ZREM set; ZREM lex a b ba c d; EXISTS lex; TYPE lex")
        .await;
    both.finish();
}

#[tokio::test]
async fn ranges_by_bytes_of_unusual_members_agree() {
    let mut both = Both::start().await;
    let members: [&[u8]; 6] = [b"lane\n0001:a", b"lane\n0002:b", b"lane-2\n0001:c", b"lane\x0b", b"", b"\xff\x00"];
    for member in members {
        both.run(&[b"ZADD", b"z", b"0", member]).await;
    }
    for (first, last) in
        [(&b"[lane\n"[..], &b"(lane\x0b"[..]), (b"(lane\n", b"[lane\x0b"), (b"[\xff", b"+"), (b"-", b"[")]
    {
        both.run(&[b"ZRANGEBYLEX", b"z", first, last, b"LIMIT", b"0", b"9"]).await;
    }
    both.finish();
}

#[tokio::test]
async fn streams_behave_as_on_the_server() {
    let mut both = Both::start().await;
    both.commands(THINGS).await;
    both.commands(
        "XADD log 5-* a 1; XADD log 7-3 a 1; XADD log 7-2 a 1; XADD log 7-* a 1; XADD log 9-* a 1; \
         XADD log 0-0 a 1; XADD log x a 1; XADD log 1-x a 1; XADD log -1-1 a 1; XADD log 10-1 a; \
         XADD log 10-1 a 1 b; XADD log 10-1; XADD log; XADD hash 1-1 a 1; XADD none NOMKSTREAM 1-* a 1; \
         XADD hash NOMKSTREAM 1-* a 1; XADD log NOMKSTREAM MAXLEN ~ 100 9-* a 1; XADD log MAXLEN -1 11-1 a 1; \
         XADD log MAXLEN x 11-1 a 1; XADD log MAXLEN 3 11-1 a 1; XADD log MAXLEN = 3 11-2 a 1; \
         XADD log MAXLEN ~ 3 MAXLEN ~ 4 11-3 a 1; XADD log MAXLEN ~; XADD log MINID 11-1 12 a 1; \
         XADD zero 0-* a 1; XADD zero 0-* a 1; XADD partial 5 a 1; \
         XADD full 18446744073709551615-18446744073709551615 a 1; XADD full 18446744073709551615-* a 1; \
         XADD edge 7-18446744073709551615 a 1; XADD edge 7-* a 1; XADD huge 18446744073709551616-1 a 1",
    )
    .await;
    both.commands("DEL log; XADD log 5-* a 1; XADD log 5-* a 2 b 3; XADD log 7-3 a 1; XADD log 8-0 e x").await;
    for range in list(
        "- +; 5 7; 5-1 +; (5-0 (7-3; (5 +; - + COUNT 2; - + COUNT 0; - + COUNT -1; - + COUNT x; - + COUNT; \
         - + NONSENSE 1; 9 +; 7 5; x +; - x; (- +; - (+; (18446744073709551615-18446744073709551615 +; - (0-0; \
         + -; - 5; 7 7",
    ) {
        both.reads(&format!("XRANGE log {range}; XREVRANGE log {range}")).await;
    }
    both.reads(
        "XREVRANGE log + - COUNT 1; XREVRANGE log (7-3 5; XRANGE none - +; XRANGE hash - +; XRANGE log -; \
         XLEN log; XLEN none; XLEN hash; XINFO STREAM none; XINFO STREAM hash",
    )
    .await;
    both.call("FCALL", "information", &[b"log"], &[]).await;
    both.commands(
        "XDEL log 5-1 5-9; XDEL log x; XDEL none 5-1; XDEL none x; XDEL hash 1-1; XDEL log 5; XDEL log 7-3 8-0; \
         XLEN log; XRANGE log - +; XREVRANGE log + - COUNT 1; EXISTS log; TYPE log; XADD log 8-* a 1; \
         XTRIM log MAXLEN 0; XTRIM none MAXLEN 0; XTRIM hash MAXLEN 0; XTRIM log MAXLEN; XTRIM log MINID x; \
         XTRIM log MINID 5; XTRIM log NONSENSE 1; XTRIM log MAXLEN x; XTRIM log MAXLEN -5; \
         XTRIM log MAXLEN 1 LIMIT 5; XTRIM log MAXLEN ~ 1 LIMIT -5; XTRIM log MAXLEN ~ 1 LIMIT x; \
         XTRIM log MAXLEN ~ 1 LIMIT; XTRIM log MAXLEN ~ 1 LIMIT 5; XTRIM log MAXLEN ~ 1 LIMIT 0; XADD log LIMIT 5 9-* a 1",
    )
    .await;
    both.call("FCALL", "information", &[b"log"], &[]).await;
    both.finish();
}

#[tokio::test]
async fn approximate_trims_keep_as_much_as_on_the_server() {
    let mut both = Both::start().await;
    for (max, entries, size) in [
        ("10", "150", "1000"),
        ("100", "450", "20"),
        ("120", "450", "0"),
        ("50", "200", "300"),
        ("0", "120", "3"),
        ("5", "30", "5000"),
    ] {
        let key = format!("log-{max}-{size}");
        both.call("FCALL", "fill", &[key.as_bytes()], &[max.as_bytes(), entries.as_bytes(), size.as_bytes()]).await;
        both.commands(&format!(
            "XRANGE {key} - + COUNT 1; XTRIM {key} MINID ~ 1700000000000-{entries} LIMIT 15; XRANGE {key} - + COUNT 1; \
         XTRIM {key} MINID ~ 1700000000000-{entries}; XRANGE {key} - + COUNT 1; \
         XDEL {key} 1700000000000-29 1700000000000-28; XTRIM {key} MAXLEN ~ 12; XLEN {key}; \
         XTRIM {key} MAXLEN 7; XRANGE {key} - + COUNT 1; XTRIM {key} MAXLEN 0; XLEN {key}"
        ))
        .await;
        both.call("FCALL", "information", &[key.as_bytes()], &[]).await;
    }
    both.finish();
}

#[tokio::test]
async fn keys_behave_as_on_the_server() {
    let mut both = Both::start().await;
    both.commands(THINGS).await;
    both.reads(
        "TYPE hash; TYPE set; TYPE log; TYPE none; EXISTS hash; EXISTS hash none set hash; EXISTS none; EXISTS; \
         TYPE; TIME x",
    )
    .await;
    both.commands("PUBLISH nobody text; PUBLISH nobody; UNLINK hash none; DEL hash set log; DEL none; DEL").await;
    both.finish();
}

#[tokio::test]
async fn strings_behave_as_on_the_server() {
    let mut both = Both::start().await;
    both.commands(THINGS).await;
    both.commands(
        "SET s abc; SET s abcd; SET s x NX; SET s x NX GET; SET new x NX; SET newer x NX GET; SET none x XX; \
         SET none x XX GET; SET s y XX; SET s z GET; SET s z XX GET; set s Z get nx; SET s 1 NX XX; SET s 1 XX NX; \
         SET s 1 NONSENSE; SET s 1 PX; SET s 1 PX x; SET s 1 PX 0; SET s 1 PX -5; SET s 1 PX 1.5; \
         SET s 1 PX 9223372036854775807; SET s 1 PX 100000 KEEPTTL; SET s 1 KEEPTTL PX 100000; SET s 1 NX NX; \
         SET s 1 GET GET; SET s; SET; SET hash x GET; SET hash x NX; SET hash x XX GET; SET hash x; TYPE hash; \
         SET gone 1 XX PX 5; EXISTS gone; HSET s a 1; ZADD s 1 a",
    )
    .await;
    both.reads(
        "GET s; GET none; GET set; GET; STRLEN s; STRLEN none; STRLEN log; STRLEN; get new; TYPE s; EXISTS s new; \
         GET newer; GET hash",
    )
    .await;
    both.run(&[b"SET", b"binary", b"\x00\xff\r\n"]).await;
    both.run(&[b"SET", b"empty", b""]).await;
    both.reads("GET binary; STRLEN binary; GET empty; STRLEN empty; EXISTS empty").await;
    both.finish();
}

#[tokio::test]
async fn expiry_behaves_as_on_the_server() {
    let mut both = Both::start().await;
    both.commands(THINGS).await;
    both.reads("PTTL hash; PTTL none; PTTL").await;
    both.commands(
        "PEXPIRE none 5; PEXPIRE hash x; PEXPIRE hash 9223372036854775807; PEXPIRE hash; PERSIST hash; PERSIST none; \
         PEXPIRE lex 0; EXISTS lex; PEXPIRE log -5; EXISTS log; PEXPIRE hash 600000; PEXPIRE set 600000; \
         SET s x PX 600000; SET kept x PX 600000; SET kept y KEEPTTL; SET lost x PX 600000; SET lost y; PTTL lost; \
         SET again x PX 600000; DEL again; SET again y; PTTL again; HSET hash new 1; ZADD set 1 new; \
         SET s y XX GET PX 700000; SET s z NX PX 5",
    )
    .await;
    for (key, least) in [("hash", "500000"), ("set", "500000"), ("s", "650000"), ("kept", "500000"), ("lost", "0")] {
        both.call("FCALL", "remaining", &[key.as_bytes()], &[least.as_bytes(), b"700000"]).await;
    }
    both.commands("PERSIST hash; PERSIST hash; PTTL hash; HDEL hash new; PEXPIRE set 600000; ZREM set a b c d new")
        .await;
    both.commands("ZADD set 1 a; PTTL set; SET kept 1; PEXPIRE kept 1; SET short 1 PX 1").await;
    for key in [&b"kept"[..], b"short"] {
        // Both clocks are this machine's, and this loop waits for both.
        while both.client.command(&[b"EXISTS", key]).await.unwrap().int() == Some(1)
            || both.embedded.command(&[b"EXISTS", key]).unwrap() == Value::Integer(1)
        {
            tokio::task::yield_now().await;
        }
    }
    both.reads("GET kept; TYPE short; PTTL short; EXISTS kept short; STRLEN short").await;
    both.commands("SET short 2 NX; PTTL short; PERSIST kept; DEL kept").await;
    both.finish();
}

#[tokio::test]
async fn replies_and_errors_of_functions_agree() {
    let mut both = Both::start().await;
    let names = LIBRARY.split_once("local replies = {").unwrap().1.split_once("\n}").unwrap().0;
    let name = |line: &'static str| {
        Some(line.strip_prefix("  ")?.split_once(" = function")?.0).filter(|name| !name.contains(' '))
    };
    let names: Vec<&str> = names.lines().filter_map(name).collect();
    assert!(names.len() > 25, "{names:?}");
    for name in names {
        both.call("FCALL", "reply", &[], &[name.as_bytes()]).await;
    }
    both.call("FCALL", "missing", &[], &[]).await;
    both.call("FCALL", "count_keys", &[b"a", b"b"], &[b"c"]).await;
    both.call("FCALL", "count_keys", &[], &[]).await;
    both.call("FCALL_RO", "writes_nothing", &[], &[b"HGET", b"h", b"a"]).await;
    both.call("FCALL_RO", "run", &[], &[b"HGET", b"h", b"a"]).await;
    for write in [
        "HSET h a 1",
        "ZADD z 1 a",
        "XADD s 1-1 a 1",
        "DEL h",
        "PUBLISH c m",
        "XTRIM s MAXLEN 0",
        "ZREM z a",
        "SET s 1",
        "PEXPIRE s 1",
        "PERSIST s",
    ] {
        let words: Vec<&[u8]> = write.split(' ').map(str::as_bytes).collect();
        both.call("FCALL", "writes_nothing", &[], &words).await;
        both.call("FCALL_RO", "writes_nothing", &[], &words).await;
    }
    both.finish();
}

#[tokio::test]
async fn writes_before_an_error_are_kept() {
    let mut both = Both::start().await;
    let answer = both.call("FCALL", "half", &[b"half"], &[]).await;
    assert!(answer.text().starts_with("WRONGTYPE"), "{answer}");
    both.commands("HGET half before; HGET half after").await;
    both.finish();
}

#[tokio::test]
async fn numbers_and_json_agree() {
    let mut both = Both::start().await;
    both.call("FCALL", "numbers", &[b"numbers", b"scores"], &[]).await;
    for text in [&b"plain"[..], b"\xff\xfe\x00/\"\\", "täglich 日本".as_bytes(), b""] {
        both.call("FCALL", "json", &[], &[text]).await;
    }
    both.finish();
}

#[tokio::test]
async fn time_is_frozen_within_a_call_and_variables_outlive_it() {
    let mut both = Both::start().await;
    both.call("FCALL", "frozen", &[], &[]).await;
    for _ in 0..3 {
        both.call("FCALL", "counter", &[], &[]).await;
    }
    both.client.command(&["FUNCTION", "LOAD", "REPLACE", LIBRARY]).await.unwrap();
    both.embedded.load(LIBRARY).unwrap();
    let answer = both.call("FCALL", "counter", &[], &[]).await;
    assert_eq!(answer.int(), Some(1), "a library that is loaded again loses its variables");
    both.finish();
}
