//! Links on which somebody limits, counts or diverts packets: what passes them takes the stack.

use super::*;

/// Looks at the links and makes them as they should be; says what was written.
fn look(stage: &mut Stage) -> usize {
    let driver = &mut stage.fastpath.driver;
    let seen = stage.node.run(|| driver.read_owned(&wanted()).unwrap()).unwrap();
    let differ = |(key, side): &(HookKey, Side)| seen.get(key).is_some_and(|seen| !super::super::HookDriver::same(seen, side));
    let set: BTreeMap<HookKey, Side> = wanted().into_iter().filter(differ).collect();
    let written = set.len();
    let report = stage.node.run(|| driver.apply(&Delta { set, remove: Default::default() })).unwrap();
    assert!(report.failed.is_empty(), "{:?}", report.failed);
    stage.epoch.advance().unwrap();
    written
}

fn carried(stage: &Stage) -> u64 {
    let (server, client) = stage.sockets(false);
    let before = stage.packets();
    exchange(&server, &client, own(&server), 20);
    stage.packets() - before
}

#[test]
fn a_link_that_is_limited_is_left_to_the_stack_as_long_as_it_is() {
    for how in [None, Some(How::Clsact)] {
        staged_as(how, |stage| {
            assert_eq!((look(stage), carried(stage)), (0, 38));
            let limit = ["qdisc", "add", "dev", "bwb", "root", "tbf", "rate", "100mbit", "burst", "32kb", "latency", "50ms"];
            run(&stage.node, "tc", &limit);
            assert_eq!((look(stage), carried(stage)), (1, 0), "what the pod gets is limited");
            assert_eq!(look(stage), 0, "it stays as it is");
            run(&stage.node, "tc", &["qdisc", "del", "dev", "bwb", "root"]);
            assert_eq!((look(stage), carried(stage)), (1, 38));
        });
    }
}

#[test]
fn a_link_with_a_queueing_discipline_at_its_ingress_is_left_to_the_stack() {
    staged(|stage| {
        if stage.node.run(|| How::of_kernel(1).unwrap()).unwrap() == How::Clsact {
            eprintln!("skipped: without tcx the place of our programs is where such a discipline would be");
            return;
        }
        assert_eq!((look(stage), carried(stage)), (0, 38));
        run(&stage.node, "tc", &["qdisc", "add", "dev", "bwa", "ingress"]);
        assert_eq!((look(stage), carried(stage)), (1, 0), "what the pod sends may be limited");
        run(&stage.node, "tc", &["qdisc", "del", "dev", "bwa", "ingress"]);
        assert_eq!((look(stage), carried(stage)), (1, 38));
        // The place alone does nothing.
        run(&stage.node, "tc", &["qdisc", "add", "dev", "bwa", "clsact"]);
        assert_eq!((look(stage), carried(stage)), (0, 38));
    });
}

#[test]
fn a_new_link_is_left_to_the_rest_of_its_chain_first_where_programs_need_a_place() {
    staged_as(Some(How::Clsact), |stage| {
        let remove = wanted().into_keys().collect();
        let report = stage.node.run(|| stage.fastpath.driver.apply(&Delta { set: BTreeMap::new(), remove })).unwrap();
        assert!(report.failed.is_empty(), "{:?}", report.failed);
        stage.fastpath.driver.leave_new_links_for(Duration::from_millis(500));
        stage.hook();
        assert_eq!((look(stage), carried(stage)), (0, 0));
        assert!(!run(&stage.node, "tc", &["qdisc", "show", "dev", "bwa"]).contains("clsact"));
        // What the plugin `bandwidth` of a pod's chain does.
        run(&stage.node, "tc", &["qdisc", "add", "dev", "bwa", "ingress"]);
        let begun = Instant::now();
        while !stage.fastpath.driver.is_due() {
            assert!(begun.elapsed() < Duration::from_secs(5));
            std::thread::yield_now();
        }
        stage.hook();
        assert_eq!((look(stage), carried(stage)), (0, 0), "one end is limited");
        run(&stage.node, "tc", &["qdisc", "del", "dev", "bwa", "ingress"]);
        assert_eq!((look(stage), carried(stage)), (1, 38));
    });
}
