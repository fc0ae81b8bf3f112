use super::{Principal, TraceContext};

/// The principal and the trace context of a submission.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller {
    pub(super) principal: Option<Principal>,
    pub(super) trace: Option<TraceContext>,
}
