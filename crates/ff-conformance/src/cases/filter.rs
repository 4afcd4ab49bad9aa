//! Filtered streams.

use ff_core::{CompletionStream, ExecutionId, FlowSubmission, Namespace, ScannerFilter, Tags};

use super::Backend;
use crate::fixture::{Fixture, is_silent, name, take};

/// Ends executions of two tenants, each with two values of a tag and without it.
struct TenantsAndTags {
    fixture: Fixture,
    tenants: [Namespace; 2],
}

impl TenantsAndTags {
    fn new(backend: Backend) -> Self {
        let fixture = Fixture::new(backend);
        let other = name(&format!("{}-other", fixture.namespace));
        let tenants = [fixture.namespace.clone(), other];
        Self { fixture, tenants }
    }

    async fn subscribe(&self, filter: &ScannerFilter) -> CompletionStream {
        self.fixture.backend.subscribe_completions_filtered(filter).await.expect("subscribed")
    }

    /// Returns the ended executions, each with the number of its tenant and the value of its tag `color`.
    async fn end_all(&self) -> Vec<(ExecutionId, usize, Option<&'static str>)> {
        let mut ended = Vec::new();
        for _ in 0..10 {
            for (tenant, namespace) in self.tenants.iter().enumerate() {
                for color in [Some("blue"), Some("bluer"), None] {
                    let tags = Tags::new(color.map(|color| ("color", color))).expect("valid tags");
                    let flow = FlowSubmission::new(namespace.clone()).execution(self.fixture.spec("a").tags(tags));
                    let id = self.fixture.submit(&flow).await.executions[0].execution_id;
                    self.fixture.complete(id).await;
                    ended.push((id, tenant, color));
                }
            }
        }
        ended
    }

    /// Ends executions of all kinds and expects on `stream` exactly those that `wanted` selects.
    async fn expect(&self, stream: &mut CompletionStream, wanted: impl Fn(usize, Option<&str>) -> bool) {
        let ended = self.end_all().await;
        let mut expected: Vec<_> =
            ended.iter().filter(|(_, tenant, color)| wanted(*tenant, *color)).map(|(id, ..)| *id).collect();
        let mut seen: Vec<_> = take(stream, expected.len()).await.iter().map(|seen| seen.execution_id).collect();
        expected.sort_unstable();
        seen.sort_unstable();
        assert_eq!(seen, expected);
        assert!(is_silent(stream), "a completion passed that the filter must reject");
    }
}

pub async fn a_namespace_filter_passes_its_tenant_only(backend: Backend) {
    let cases = TenantsAndTags::new(backend);
    let filter = ScannerFilter::new().namespace(cases.tenants[0].clone());
    let mut stream = cases.subscribe(&filter).await;
    cases.expect(&mut stream, |tenant, _| tenant == 0).await;
}

pub async fn a_tag_filter_passes_exactly_its_value(backend: Backend) {
    let cases = TenantsAndTags::new(backend);
    let mut stream = cases.subscribe(&ScannerFilter::new().instance_tag("color", "blue")).await;
    cases.expect(&mut stream, |_, color| color == Some("blue")).await;
}

pub async fn both_conditions_of_a_filter_must_hold(backend: Backend) {
    let cases = TenantsAndTags::new(backend);
    let filter = ScannerFilter::new().namespace(cases.tenants[1].clone()).instance_tag("color", "bluer");
    let mut stream = cases.subscribe(&filter).await;
    cases.expect(&mut stream, |tenant, color| tenant == 1 && color == Some("bluer")).await;
}

pub async fn the_noop_filter_passes_everything(backend: Backend) {
    let cases = TenantsAndTags::new(backend);
    let mut stream = cases.subscribe(&ScannerFilter::NOOP).await;
    cases.expect(&mut stream, |_, _| true).await;
}
