//! What is read back as objects is what was written, and what is not ours is not guessed.

use super::*;

/// The table of a policy: a base chain that asks another, which looks into a set.
fn objects() -> Objects {
    let jump = Rule { expressions: vec![Expr::Verdict(Verdict::Jump("asked".into()))], comment: None };
    let drop = Rule { expressions: vec![Expr::Counter, Expr::Verdict(Verdict::Drop)], comment: Some("denied".into()) };
    let base = BaseChain { kind: ChainKind::Filter, hook: Hook::Forward, priority: 0, accept: true };
    Objects::from([
        (set_key("members"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Nothing))),
        (element_key("members", KeyBuilder::new().ip("192.0.2.1".parse().unwrap())), point(ElementData::Nothing)),
        (chain_key("asked"), NftObject::Chain(ChainSpec { base: None, rules: vec![drop] })),
        (chain_key("door"), NftObject::Chain(ChainSpec { base: Some(base), rules: vec![jump] })),
    ])
}

fn nft(namespace: &NetNs, words: &str) {
    let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
    let done = namespace.run(|| Command::new("nft").args(&words).status().unwrap().success()).unwrap();
    assert!(done, "nft {words:?}");
}

#[test]
fn a_snapshot_is_what_is_in_force() {
    let Some(namespace) = fresh() else { return };
    let mut driver = NftDriver::open_in(&namespace).unwrap();
    let wanted = objects();
    let report = driver.apply(&Delta { set: wanted.clone(), remove: Default::default() });
    assert_eq!(report.failed, []);
    let snapshot = driver.snapshot(&wanted).unwrap();
    assert_eq!((snapshot.objects, snapshot.strange), (wanted.clone(), vec![]));

    nft(&namespace, "delete element inet bowline members { 192.0.2.1 }");
    let mut less = wanted.clone();
    less.retain(|key, _| !matches!(key, NftKey::Element { .. }));
    assert_eq!(driver.snapshot(&wanted).unwrap().objects, less, "an element that someone took away");

    nft(&namespace, "add rule inet bowline asked accept");
    let snapshot = driver.snapshot(&wanted).unwrap();
    assert!(!snapshot.objects.contains_key(&chain_key("asked")), "a chain with a rule of someone else's is not known");
    assert_eq!(snapshot.strange, Vec::<Arc<str>>::new(), "whoever jumps there finds that out");

    nft(&namespace, "add rule inet bowline door accept");
    assert_eq!(driver.snapshot(&wanted).unwrap().strange, vec![Arc::<str>::from("door")]);

    nft(&namespace, "delete table inet bowline");
    let snapshot = driver.snapshot(&wanted).unwrap();
    assert!(snapshot.objects.is_empty() && snapshot.strange.is_empty(), "nothing is there, and so it passes");
}
