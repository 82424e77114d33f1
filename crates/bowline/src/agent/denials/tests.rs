use bowline_model::intent::policy::{Action, Peers, PodPolicy, PodSide, Tier, TierRule, TierRules};
use bowline_model::{ClusterPolicyName, PolicyName};

use super::*;

fn intent(policies: &[&str], revision: u64) -> Intent {
    let mut policy = PolicyIntent::default();
    let list: Vec<PolicyName> = policies.iter().map(|name| PolicyName::new("shop", *name)).collect();
    let ingress = PodSide { policies: Some(list), admin: vec![ClusterPolicyName::from("guard")], ..PodSide::default() };
    policy.pods.insert("bwla".into(), Arc::new(PodPolicy { ingress, ..PodPolicy::default() }));
    let rule = |label: &str| TierRule { label: label.into(), action: Action::Deny, peers: Peers::Any, ports: None };
    let rules = TierRules { tier: Tier::Admin, rules: vec![rule("ingress[0]"), rule("ingress[1] `no`")] };
    policy.tiers.insert((ClusterPolicyName::from("guard"), Direction::Ingress), Arc::new(rules));
    Intent { policy: Arc::new(policy), revision, ..Intent::default() }
}

#[test]
fn counters_are_told_by_policy_direction_and_reason() {
    let intent = intent(&["a", "b"], 1);
    let counters = counted(&intent.policy).into_iter().zip(1..).map(|(denial, packets)| (denial.counter(), packets)).collect();
    let denied = of_counters(&intent.policy, &counters);
    let mut page = Page::default();
    metrics(&denied, &mut page);
    let text = page.into_text();
    for series in [
        "{policy=\"shop/a shop/b\",direction=\"ingress\",reason=\"no-rule\"}",
        "{policy=\"guard\",direction=\"ingress\",reason=\"admin-tier\"}",
        "{policy=\"\",direction=\"ingress\",reason=\"closed\"}",
        "{policy=\"\",direction=\"egress\",reason=\"closed\"}",
        "{policy=\"\",direction=\"egress\",reason=\"loopback\"}",
    ] {
        assert_eq!(text.matches(series).count(), 1, "{series} in\n{text}");
    }
    assert_eq!(denied.iter().map(|one| one.packets).sum::<u64>(), 15, "no counter twice, none left out");
    assert!(of_counters(&intent.policy, &BTreeMap::new()).is_empty(), "a kernel without counters");
}

#[test]
fn a_name_is_found_as_long_as_the_rules_and_a_little_longer() {
    let (before, after) = (intent(&["a"], 1), intent(&["a", "b"], 2));
    let chain_of = |intent: &Intent, rule: Option<&str>| {
        denials(&intent.policy).iter().find(|one| one.rule() == rule && !one.policies().is_empty()).map(Denial::chain).unwrap()
    };
    let (old, new, of_rule) = (chain_of(&before, None), chain_of(&after, None), chain_of(&after, Some("ingress[1] `no`")));
    let mut names = Names::default();
    assert_eq!(names.of(&old, &before).unwrap().policies, "shop/a");
    assert_eq!(names.of(&old, &after).unwrap().policies, "shop/a", "rules that have just gone");
    assert_eq!(names.of(&new, &after).unwrap().policies, "shop/a shop/b");
    let named = names.of(&of_rule, &after).unwrap();
    assert_eq!((named.policies.as_str(), named.rule.as_deref(), named.reason), ("guard", Some("ingress[1] `no`"), Reason::Admin));
    assert_eq!(names.of("denied/other", &after), None);
}
