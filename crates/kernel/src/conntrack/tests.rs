//! Against the kernel, with entries put in by hand.
#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use super::*;
use crate::netns::testing::fresh;

fn tuple(source: &str, destination: &str, protocol: u8, discriminator: Discriminator) -> Tuple {
    Tuple { source: source.parse().unwrap(), destination: destination.parse().unwrap(), protocol, discriminator }
}

/// What answers look like where nothing is translated.
fn reversed(tuple: &Tuple) -> Tuple {
    let mut answers = tuple.answers();
    if let Discriminator::Icmp { kind, .. } = &mut answers.discriminator {
        *kind = answer_to(*kind);
    }
    answers
}

fn answer_to(kind: u8) -> u8 {
    if kind == 8 { 0 } else { 129 }
}

/// Puts an entry in as the kernel would for a first packet.
fn insert(conntrack: &mut Conntrack, original: Tuple, mark: u32, zone: u16) {
    let family = Family::of(&original.source);
    let mut message = Message::new(MSG_NEW, flags::REQUEST | flags::ACK | flags::CREATE | flags::EXCLUSIVE, &nfgen(af(family)));
    put_tuple(&mut message, CTA_TUPLE_ORIG, &original);
    put_tuple(&mut message, CTA_TUPLE_REPLY, &reversed(&original));
    message.attr_be32(CTA_TIMEOUT, 300).attr_be32(CTA_MARK, mark);
    if zone != 0 {
        message.attr_be16(CTA_ZONE, zone);
    }
    conntrack.connection.execute(message).unwrap();
}

fn ports(source: u16, destination: u16) -> Discriminator {
    Discriminator::Ports { source, destination }
}

fn samples() -> [Tuple; 5] {
    [
        tuple("10.0.0.1", "10.0.0.2", 17, ports(1000, 53)),
        tuple("10.0.0.1", "10.0.0.2", 17, ports(1001, 53)),
        tuple("fd00::1", "fd00::2", 17, ports(1000, 53)),
        tuple("10.0.0.1", "10.0.0.2", 1, Discriminator::Icmp { id: 7, kind: 8, code: 0 }),
        tuple("fd00::1", "fd00::2", 58, Discriminator::Icmp { id: 7, kind: 128, code: 0 }),
    ]
}

#[test]
fn entries_of_both_families_are_read_and_deleted_one_by_one() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    assert_eq!(conntrack.entries().unwrap(), vec![]);
    for original in samples() {
        insert(&mut conntrack, original, 0x0005_0000, 0);
    }
    let mut found = conntrack.entries().unwrap();
    assert_eq!(found.len(), samples().len());
    for original in samples() {
        let entry = found.iter().find(|e| e.original == original).unwrap_or_else(|| panic!("{original:?} in {found:?}"));
        assert_eq!((entry.reply, entry.mark, entry.zone), (reversed(&original), 0x0005_0000, 0));
        assert!(entry.timeout_s > 200 && entry.id.is_some() && !entry.is_dnat(), "{entry:?}");
    }
    while let Some(entry) = found.pop() {
        assert!(conntrack.delete(&entry).unwrap());
        assert!(!conntrack.delete(&entry).unwrap(), "gone already");
        let left = conntrack.entries().unwrap();
        assert_eq!(left.len(), found.len());
        assert!(left.iter().all(|e| e.original != entry.original));
    }
}

#[test]
fn a_filter_takes_only_what_it_names() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    for original in samples() {
        insert(&mut conntrack, original, 0, 0);
    }
    let deleted = conntrack.delete_where(|e| e.original.source_port() == Some(1000)).unwrap();
    assert_eq!(deleted, 2, "one of each family");
    assert!(conntrack.entries().unwrap().iter().all(|e| e.original.source_port() != Some(1000)));
    assert_eq!(conntrack.entries().unwrap().len(), 3);
}

#[test]
fn a_mark_leaves_the_other_bits_and_is_found_by_its_own() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    for original in samples() {
        insert(&mut conntrack, original, 0x0005_0001, 0);
    }
    let of_another_zone = tuple("10.0.0.1", "10.0.0.2", 17, ports(1000, 53));
    insert(&mut conntrack, of_another_zone, 0x0005_0001, 9);
    let udp = conntrack.entries_where(|e| e.original.protocol == 17 && (e.zone == 9) == (e.original == of_another_zone)).unwrap();
    assert_eq!(udp.len(), 3, "one of a zone, and two");
    let gone = *udp.first().unwrap();
    assert!(conntrack.delete(&gone).unwrap());
    for _ in 0..2 {
        assert_eq!(conntrack.mark_all(&udp, 2).unwrap(), 2, "one is no more, and marking twice does no harm");
    }
    let mut marked: Vec<_> = conntrack.entries_marked(2, |_| true).unwrap().iter().map(|e| (e.original, e.mark)).collect();
    let mut wanted: Vec<_> = udp.iter().skip(1).map(|e| (e.original, 0x0005_0003)).collect();
    marked.sort();
    wanted.sort();
    assert_eq!(marked, wanted);
    assert_eq!(conntrack.entries_marked(2, |e| e.zone == 9).unwrap().len(), usize::from(gone.zone != 9));
    assert_eq!(conntrack.entries_where(|e| e.mark == 0x0005_0001).unwrap().len(), samples().len() - 2, "the others are as they were");
}

#[test]
fn the_same_tuple_in_another_zone_stays() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    let original = tuple("10.0.0.1", "10.0.0.2", 17, ports(1000, 53));
    insert(&mut conntrack, original, 0, 0);
    insert(&mut conntrack, original, 0, 9);
    assert_eq!(conntrack.delete_where(|e| e.zone == 9).unwrap(), 1);
    let left = conntrack.entries().unwrap();
    assert_eq!(left.iter().map(|e| (e.original, e.zone)).collect::<Vec<_>>(), [(original, 0)]);
}

#[test]
fn an_entry_that_took_the_place_of_another_is_not_hit() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    let original = tuple("10.0.0.1", "10.0.0.2", 17, ports(1000, 53));
    insert(&mut conntrack, original, 1, 0);
    let old = *conntrack.entries().unwrap().first().unwrap();
    // The kernel's number for an entry comes from its place in memory, so many are tried until the place is another.
    let mut others = 2000;
    loop {
        conntrack.delete_where(|e| e.original == original).unwrap();
        insert(&mut conntrack, tuple("10.0.0.1", "10.0.0.2", 17, ports(others, 53)), 0, 0);
        insert(&mut conntrack, original, 2, 0);
        let new = conntrack.entries_where(|e| e.original == original).unwrap();
        if new.first().unwrap().id != old.id {
            break;
        }
        others += 1;
    }
    assert!(!conntrack.delete(&old).unwrap());
    assert_eq!(conntrack.entries_where(|e| e.original == original).unwrap().len(), 1);
}

#[test]
fn a_connection_is_made_known_once_and_as_far_as_it_went() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    for (number, (source, destination)) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")].into_iter().enumerate() {
        for answered in [true, false] {
            let original = tuple(source, destination, 6, ports(1000 + u16::from(answered), 80));
            assert!(conntrack.adopt_tcp(&original, answered, 432_000).unwrap());
            assert!(!conntrack.adopt_tcp(&original, answered, 432_000).unwrap(), "known already");
            let entry = conntrack.entries().unwrap().into_iter().find(|entry| entry.original == original).unwrap();
            assert_eq!(entry.reply, reversed(&original));
            assert_eq!(entry.status & STATUS_SEEN_REPLY != 0, answered);
            assert_eq!(entry.timeout_s > 431_000, answered, "{} s", entry.timeout_s);
            assert!(entry.timeout_s > 100 && !entry.is_dnat());
        }
        assert_eq!(conntrack.entries().unwrap().len(), 2 * (number + 1));
    }
}

#[test]
fn the_room_counts_entries_and_says_how_many_there_may_be() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    let empty = conntrack.room().unwrap();
    assert!(empty.entries == 0 && empty.dropped == 0 && empty.evicted == 0, "{empty:?}");
    let max: u32 = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max").unwrap().trim().parse().unwrap();
    assert_eq!(empty.max, max);
    for original in samples() {
        insert(&mut conntrack, original, 0, 0);
    }
    assert_eq!(conntrack.room().unwrap(), Room { entries: 5, ..empty });
}

#[test]
fn bits_of_a_mark_are_set_and_cleared_and_the_entry_stays() {
    let Some(ns) = fresh() else { return };
    let mut conntrack = Conntrack::open_in(&ns).unwrap();
    for original in samples() {
        insert(&mut conntrack, original, 0x0005_0004, 0);
    }
    let sorted = |conntrack: &mut Conntrack| {
        let mut entries = conntrack.entries().unwrap();
        entries.sort_by_key(|entry| entry.original);
        entries
    };
    let before = sorted(&mut conntrack);
    assert_eq!(conntrack.mark_all(&before, 2).unwrap(), 5);
    assert_eq!(conntrack.mark_all(&before, 2).unwrap(), 5, "once more changes nothing");
    assert_eq!(conntrack.entries_marked(2, |_| true).unwrap().len(), 5);
    let marked = sorted(&mut conntrack);
    assert!(marked.iter().zip(&before).all(|(is, was)| is.mark == 0x0005_0006 && is.id == was.id), "{marked:?}");
    assert_eq!(conntrack.unmark_all(&before, 2).unwrap(), 5);
    assert_eq!(conntrack.entries_marked(2, |_| true).unwrap(), vec![]);
    let cleared = sorted(&mut conntrack);
    assert!(cleared.iter().zip(&before).all(|(is, was)| is.mark == was.mark && is.id == was.id), "{cleared:?}");
    conntrack.delete_all(&before).unwrap();
    assert!(!conntrack.unmark(&before[0], 2).unwrap(), "gone");
}
