//! The table of ARP: what is lowered for it is taken, read back and removed, beside the other table of the same name.

use bowline_dataplane::objects::nft::TableFamily;
use bowline_dataplane::pod::guard::{ARP_CHAIN, Reason};

use super::lowered::{host, intent_of_pods};
use super::*;

fn open(ns: &NetNs) -> NftDriver {
    ns.run(|| NftDriver::open_of(TableFamily::Arp)).unwrap().unwrap()
}

fn lowered(pods: &[u8]) -> Objects {
    bowline_dataplane::lower(&Default::default(), &intent_of_pods(pods), &host()).value.arp.set
}

/// Keys that are not there, or not as they should be, or too many.
fn differences_of(driver: &mut NftDriver, want: &Objects) -> Vec<NftKey> {
    let seen = driver.read_owned(want).unwrap();
    let wrong = |(key, object): (&NftKey, &NftObject)| {
        let good = seen.get(key).is_some_and(|found| NftDriver::same(found, object));
        (!good).then(|| key.clone())
    };
    want.iter().filter_map(wrong).chain(seen.keys().filter(|key| !want.contains_key(*key)).cloned()).collect()
}

#[test]
fn what_others_write_begins_a_generation_that_the_driver_has_not_counted() {
    let Some((ns, mut driver)) = start() else { return };
    let others = |driver: &mut NftDriver| driver.generation().unwrap().wrapping_sub(driver.commits());
    let set = Objects::from([(set_key("src4"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Nothing)))]);
    turn(&mut driver, &Objects::new(), &set);
    let (before, commits) = (others(&mut driver), driver.commits());
    turn(&mut driver, &set, &set);
    assert_eq!((others(&mut driver), driver.commits()), (before, commits), "nothing to do is no transaction");
    let mut arp = open(&ns);
    turn(&mut arp, &Objects::new(), &lowered(&[1]));
    assert_eq!(others(&mut driver), before.wrapping_add(arp.commits()), "each driver counts its own");
    if nft(&ns, &["add", "table", "ip", "stranger"]).is_some() {
        assert_eq!(others(&mut driver), before.wrapping_add(arp.commits() + 1));
        nft(&ns, &["add element inet bowline src4 { 10.0.0.1 }"]);
        assert_eq!(others(&mut driver), before.wrapping_add(arp.commits() + 2));
    }
}

#[test]
fn the_two_tables_of_our_name_know_nothing_of_each_other() {
    let Some((ns, mut inet)) = start() else { return };
    let mut arp = open(&ns);
    let (one, two) = (lowered(&[1]), lowered(&[1, 2]));
    assert_eq!(two.len(), one.len() + 1);
    let set = Objects::from([(set_key("src4"), NftObject::Set(set_of(&[Field::Ipv4], SetData::Nothing)))]);
    turn(&mut inet, &Objects::new(), &set);
    turn(&mut arp, &Objects::new(), &one);
    turn(&mut arp, &one, &two);
    assert_eq!(differences_of(&mut open(&ns), &two), []);
    assert_eq!(differences_of(&mut NftDriver::open_in(&ns).unwrap(), &set), []);
    let counters = arp.counters(ARP_CHAIN).unwrap();
    assert_eq!(counters.iter().map(|one| one.comment.as_deref()).collect::<Vec<_>>(), [Some(Reason::Arp.says())]);
    turn(&mut arp, &two, &one);
    assert_eq!(differences_of(&mut open(&ns), &one), []);
    if let Some(listed) = nft(&ns, &["list", "table", "arp", "bowline"]) {
        assert!(listed.contains("type filter hook input priority filter; policy accept;"), "{listed}");
    }
    arp.uninstall().unwrap();
    assert!(!arp.is_installed().unwrap() && inet.is_installed().unwrap());
    inet.uninstall().unwrap();
}
