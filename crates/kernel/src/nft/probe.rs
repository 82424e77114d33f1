//! Which expressions the kernel has, asked without changing anything.
//!
//! A transaction without its end is judged message by message and then thrown away (`nfnetlink_rcv_batch`), so that what is refused tells
//! what is missing, and what is taken leaves no trace. Modules that the kernel can load are loaded by it.

use bowline_dataplane::DenialFacts;
use bowline_dataplane::objects::nft::{Expr, Rule};
use bowline_dataplane::policy::nftables::LOG_GROUP;

use super::driver::NftDriver;
use super::encode;
use super::error::NftError;
use super::expr::encode_rule;
use super::uapi;
use super::wire::Writer;

/// Name of the chain and the counter that are made and thrown away.
const NAME: &str = "denied/probe";

impl NftDriver {
    /// How the kernel can tell of denials.
    ///
    /// # Errors
    /// If the kernel does not answer.
    pub fn denial_facts(&mut self) -> Result<DenialFacts, NftError> {
        let logged = vec![Expr::Limit { per_second: 1, burst: 1 }, Expr::Log { group: LOG_GROUP, prefix: NAME.into(), snap_bytes: 64 }];
        Ok(DenialFacts { counted: self.takes(vec![Expr::Count { counter: NAME.into() }], true)?, logged: self.takes(logged, false)? })
    }

    /// Whether a rule of these expressions would be taken, beside a counter if it needs one.
    fn takes(&mut self, expressions: Vec<Expr>, counter: bool) -> Result<bool, NftError> {
        let Ok(rule) = encode_rule(&Rule { expressions, comment: None }) else { return Ok(false) };
        let name = NAME.into();
        let first = self.socket.free_sequence();
        let mut w = Writer::about(self.socket.family);
        w.batch_mark(uapi::NFNL_MSG_BATCH_BEGIN, first);
        encode::new_table(&mut w, first + 1);
        let named = encode::new_chain(&mut w, first + 2, &name, None);
        let counted = if counter { encode::new_counter(&mut w, first + 3, &name) } else { Ok(()) };
        encode::new_rule(&mut w, first + 4, &name, &rule);
        self.socket.used(5);
        Ok(named.is_ok() && counted.is_ok() && self.socket.transact(w.bytes(), first, 5)?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test may fail loudly")]
    use super::*;
    use crate::netns::testing::fresh;

    #[test]
    fn asking_tells_what_is_missing_and_leaves_no_trace() {
        let Some(ns) = fresh() else { return };
        let mut driver = NftDriver::open_in(&ns).unwrap();
        assert_eq!(driver.denial_facts().unwrap(), DenialFacts { counted: true, logged: true });
        assert!(!driver.takes(vec![Expr::Count { counter: "denied/missing".into() }], false).unwrap());
        assert!(!driver.is_installed().unwrap());
    }
}
