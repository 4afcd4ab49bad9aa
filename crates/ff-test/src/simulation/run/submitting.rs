//! Submissions and their repetitions.

use super::*;

impl<S: Stage> Run<'_, S> {
    pub(super) fn submit(
        &mut self,
        members: &[Member],
        is_flow: bool,
    ) -> Result<Result<(), EngineError>, Disagreement> {
        let key = self.next_key();
        self.submit_as(key, members, is_flow)
    }

    pub(super) fn next_key(&mut self) -> String {
        self.submitted += 1;
        format!("{}-{}", self.tag, self.submitted - 1)
    }

    pub(super) fn submit_as(
        &mut self,
        key: String,
        members: &[Member],
        is_flow: bool,
    ) -> Result<Result<(), EngineError>, Disagreement> {
        let submitted = self.world.submit(&key, members, is_flow);
        // An interrupted submission is repeated, as by its caller.
        let (flow, ids) = match submitted {
            Ok(submitted) => submitted,
            Err(_) => {
                self.interrupted = true;
                self.heal()?;
                self.model.sweep();
                match self.world.submit(&key, members, is_flow) {
                    Ok(submitted) => submitted,
                    Err(error) => return Ok(Err(error)),
                }
            }
        };
        self.accepted(key, members, flow, ids, None);
        Ok(Ok(()))
    }

    /// Records an accepted submission; `queued_at` is the queue time of each member, if not now.
    pub(super) fn accepted(
        &mut self,
        key: String,
        members: &[Member],
        flow: Option<FlowId>,
        ids: Vec<ExecutionId>,
        queued_at: Option<&[u64]>,
    ) {
        let uuids = ids.iter().map(|id| id.uuid().to_string()).collect();
        self.model.submit(members, uuids, flow.is_some(), queued_at);
        self.flows.extend(flow);
        self.ids.extend(ids.iter().copied());
        self.submissions.push(Submission { key, members: members.to_vec(), flow, ids });
    }

    /// A repeated submission gives the same reply and changes nothing.
    pub(super) fn resubmit(&mut self, pick: u32) -> Result<Result<(), EngineError>, Disagreement> {
        if self.submissions.is_empty() {
            return Ok(Ok(()));
        }
        let number = pick as usize % self.submissions.len();
        let Submission { key, members, flow, ids } = &self.submissions[number];
        match self.world.submit(key, members, flow.is_some()) {
            Ok(found) => {
                ensure!(found == (*flow, ids.clone()), "it answered {found:?}, expected {flow:?} and {ids:?}");
                Ok(Ok(()))
            }
            Err(error) => Ok(Err(error)),
        }
    }
}
