//! Maps that are full: what is there stays and is served, what does not fit is left to the stack and the rules.

use std::collections::BTreeSet;

use aya::EbpfLoader;
use bowline_bpf::abi::{Endpoint, EndpointKey, Frontend, FrontendKey, Kind, LiveKey};
use bowline_dataplane::objects::sockets::{SocketKey, SocketValue};

use super::*;
use crate::bpf::{SocketDriver, is_full};

const SMALL: Sizes = Sizes { carried: 1024, frontends: 2048, endpoints: 1024, live: 1024, peers: 1024, flows: 1024 };

fn frontend(number: u16) -> FrontendKey {
    let [high, low] = number.to_be_bytes();
    FrontendKey { address: Ipv4Addr::new(10, 43, high, low).into(), port: 53, protocol: 17, kind: Kind::Vip }
}

/// Services of one endpoint each.
fn services(numbers: impl Iterator<Item = u16>, generation: u32) -> BTreeMap<SocketKey, SocketValue> {
    let endpoint = Endpoint { address: Ipv4Addr::new(10, 42, 1, 1).into(), port: 53 };
    let one = |number| {
        let frontend = frontend(number);
        let place = EndpointKey { frontend, generation, index: 0 };
        [
            (SocketKey::Endpoint(place), SocketValue::Endpoint(endpoint)),
            (SocketKey::Live(LiveKey { frontend, endpoint }), SocketValue::Live),
            (SocketKey::Frontend(frontend), SocketValue::Frontend(Frontend { generation, endpoints: 1 })),
        ]
    };
    numbers.flat_map(one).collect()
}

/// The maps of the socket hooks in a BPF file system, without the hooks.
fn maps() -> SocketDriver {
    let directory = Path::new(BPFFS).join("maps");
    std::fs::create_dir(&directory).unwrap();
    let mut loader = EbpfLoader::new();
    loader.default_map_pin_directory(&directory);
    for (map, size) in SMALL.each() {
        loader.map_max_entries(map, size);
    }
    loader.load(bowline_bpf::sockets()).unwrap();
    SocketDriver::open(&directory).unwrap()
}

/// Frontends that are in the map; each has all that it points at.
fn served(driver: &mut SocketDriver) -> BTreeSet<FrontendKey> {
    let seen = driver.read_owned(&BTreeMap::new()).unwrap();
    let whole = |key: &SocketKey| match (key, seen.get(key)) {
        (SocketKey::Frontend(frontend), Some(SocketValue::Frontend(value))) => {
            let place = EndpointKey { frontend: *frontend, generation: value.generation, index: 0 };
            let Some(SocketValue::Endpoint(endpoint)) = seen.get(&SocketKey::Endpoint(place)) else {
                panic!("{frontend:?} points at nothing")
            };
            assert!(seen.contains_key(&SocketKey::Live(LiveKey { frontend: *frontend, endpoint: *endpoint })), "{frontend:?}: not live");
            Some(*frontend)
        }
        _ => None,
    };
    seen.keys().filter_map(whole).collect()
}

#[test]
fn services_that_do_not_fit_are_left_out_whole_and_come_in_when_there_is_room() {
    if fresh().is_none() {
        return;
    }
    mounted(|| {
        let mut links = Reconciler::new(maps());
        links.allow_removal();
        assert_eq!(links.driver().room(), [("frontends", 2048), ("endpoints", 1024), ("live", 1024)]);
        let first = services(0..900, 1);
        links.want(Delta { set: first.clone(), remove: Default::default() });
        assert!(links.sync(SyncMode::Full, 0).is_clean());
        assert_eq!(links.driver().left_out(), (0, 0, 0));

        links.want(Delta { set: services(900..1500, 1), remove: Default::default() });
        let report = links.sync(SyncMode::Shadow, 1);
        assert!(!report.failed.is_empty() && report.failed.iter().all(|failure| is_full(&failure.error)), "{:?}", report.failed.first());
        let there = served(links.driver());
        let (left_out, missing, refused) = links.driver().left_out();
        assert_eq!(there.len() + left_out, 1500);
        assert!(left_out >= 1500 - 1024 && missing >= left_out && refused >= missing as u64, "{left_out} {missing} {refused}");
        assert!((0..900).all(|number| there.contains(&frontend(number))), "what was there stays");

        // A list that changes while there is no room: it is left out, and does not point at what has gone.
        let removed: BTreeSet<SocketKey> =
            (0..200).map(|number| SocketKey::Endpoint(EndpointKey { frontend: frontend(number), generation: 1, index: 0 })).collect();
        links.want(Delta { set: services(0..200, 2), remove: removed });
        links.sync(SyncMode::Shadow, 2);
        let there = served(links.driver());
        assert_eq!(there.len() + links.driver().left_out().0, 1500);

        // Room comes: all that is wanted is served, by tries that the reconciler makes by itself.
        links.want(Delta { set: BTreeMap::new(), remove: services(300..900, 1).into_keys().collect() });
        let mut now = 3;
        while !links.dirty().is_empty() {
            links.sync(SyncMode::Shadow, now);
            now = links.next_retry_ms().unwrap_or(now);
            assert!(now < 600_000, "{:?}", links.driver().left_out());
        }
        assert_eq!(served(links.driver()).len(), 900);
        assert_eq!(links.driver().left_out().0, 0);
    });
}

#[test]
fn more_flows_than_the_fast_path_has_room_for_are_all_served() {
    staged_with(None, SMALL, |stage| {
        let (server, first) = stage.sockets(false);
        exchange(&server, &first, own(&server), 5);
        let clients: Vec<UdpSocket> = (0..1500).map(|_| bound(&stage.a, SocketAddr::new(address(false, 1), 0))).collect();
        for client in &clients {
            exchange(&server, client, own(&server), 2);
        }
        let (known, room) = stage.fastpath.tally.fill().unwrap();
        assert_eq!(room, 1024);
        assert!(known > 0 && known <= 1024, "{known} flows are known");
        // The oldest lives on, and is carried anew once the stack has let it through; so is the newest.
        for client in [&first, &clients[1499]] {
            let before = stage.packets();
            exchange(&server, client, own(&server), 10);
            assert!(stage.packets() >= before + 18, "carried {}", stage.packets() - before);
        }
    });
}
