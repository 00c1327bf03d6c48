//! What the agent would change.

use weft_node_agent::api::messages::PlanReply;

use super::{Page, lines, section};

impl Page for PlanReply {
    fn page(&self) -> String {
        let steps = if self.steps.is_empty() { "nothing to do\n".to_owned() } else { lines(&self.steps) };
        steps + &section("In the way", &lines(&self.obstacles))
    }
}
