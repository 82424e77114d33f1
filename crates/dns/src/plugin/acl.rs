//! `acl`: who may ask what.

use std::net::IpAddr;

use domain::base::iana::Rtype;
use ipnet::IpNet;

use crate::corefile::{CorefileError, Directive, Word};
use crate::name::{self, Name};
use crate::plugin::{read, zones_or};
use crate::wire::Query;

/// What happens to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Allow,
    /// It is refused.
    Block,
    /// It gets an empty answer.
    Filter,
    /// It gets none.
    Drop,
}

/// The plugin: rules in order, the first that fits decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acl {
    zones: Vec<Name>,
    rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    verdict: Verdict,
    /// Any type if empty.
    types: Vec<Rtype>,
    /// Any client if empty.
    nets: Vec<IpNet>,
}

impl Acl {
    /// Reads the directive.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(directive: &Directive, block: &[Name]) -> Result<Acl, CorefileError> {
        let zones = zones_or(&directive.args, block)?;
        let rules = directive.body.iter().map(|line| read_rule(directive, line)).collect::<Result<Vec<_>, _>>()?;
        if rules.is_empty() {
            return Err(directive.name.error("`acl` has no rules", "write rules such as `block net 10.0.0.0/8` in braces"));
        }
        Ok(Acl { zones, rules })
    }

    /// What happens to a question.
    pub fn judge(&self, query: &Query, client: IpAddr) -> Verdict {
        if !name::in_any(&self.zones, &query.name) {
            return Verdict::Allow;
        }
        let fits = |rule: &&Rule| {
            (rule.types.is_empty() || rule.types.contains(&query.rtype))
                && (rule.nets.is_empty() || rule.nets.iter().any(|net| net.contains(&client)))
        };
        self.rules.iter().find(fits).map_or(Verdict::Allow, |rule| rule.verdict)
    }
}

fn read_rule(directive: &Directive, line: &Directive) -> Result<Rule, CorefileError> {
    let verdict = match line.name.text.as_str() {
        "allow" => Verdict::Allow,
        "block" => Verdict::Block,
        "filter" => Verdict::Filter,
        "drop" => Verdict::Drop,
        _ => return Err(directive.unknown_option(line, "allow, block, filter, drop")),
    };
    let mut rule = Rule { verdict, types: Vec::new(), nets: Vec::new() };
    let mut section = None;
    for word in &line.args {
        match (word.text.as_str(), section) {
            ("type", _) => section = Some(Section::Types),
            ("net", _) => section = Some(Section::Nets),
            ("*" | "ANY", Some(Section::Types)) | ("*", Some(Section::Nets)) => {}
            (_, Some(Section::Types)) => rule.types.push(read::rtype(word)?),
            (_, Some(Section::Nets)) => rule.nets.push(read_net(word)?),
            (_, None) => return Err(word.error(format!("`{}` is out of place", word.text), "write `type TYPES...` and `net NETWORKS...`")),
        }
    }
    Ok(rule)
}

#[derive(Clone, Copy)]
enum Section {
    Types,
    Nets,
}

fn read_net(word: &Word) -> Result<IpNet, CorefileError> {
    let address = word.text.parse::<IpAddr>().map(IpNet::from);
    let net = word.text.parse::<IpNet>().or(address);
    net.map_err(|_| word.error(format!("`{}` is no network", word.text), "write an address, or ADDRESS/LENGTH"))
}
