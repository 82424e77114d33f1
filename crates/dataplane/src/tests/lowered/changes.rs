//! Change by change: lowering what differs leads to the same objects as lowering everything, whatever the world has become.

use bowline_compile::testing::dice::{self, Dice};
use bowline_compile::testing::notation::changes;
use bowline_compile::{Change, Compiler, Settings, Touched, World};
use bowline_model::intent::Intent;
use bowline_model::intent::routes::BackendConf;
use proptest::prelude::*;

use super::super::machine::full_on;
use super::super::notation::{host, nets};
use crate::interpret::Table;

fn settings(which: u8) -> Settings {
    let mut settings = Settings::new("n1");
    settings.cluster_cidrs = if which & 1 == 0 { nets(&["10.42.0.0/16", "fd42::/16"]) } else { Vec::new() };
    settings.service_cidrs = nets(&["10.43.0.0/16", "fd43::/112"]);
    settings.external_ips = nets(&["203.0.113.0/24", "192.168.0.0/24"]);
    settings.load_balancer_ips.clone_from(&settings.external_ips);
    settings.backend = match which >> 1 & 3 {
        0 => BackendConf::HostGw,
        1 => BackendConf::Vxlan { vni: 1, port: 8472, direct_routing: true },
        _ => BackendConf::default(),
    };
    if which & 8 != 0 {
        settings.node_port_addresses = nets(&["192.168.0.0/24"]);
    }
    settings
}

/// A node that shares its address with another more often than not.
fn peer(dice: &mut Dice<'_>) -> String {
    format!("node n{} 192.168.0.{} cidr=10.42.{}.0/24 ^{}", 1 + dice.below(4), 1 + dice.below(4), 1 + dice.below(8), dice.below(9))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: ProptestConfig::default().cases, ..super::config() })]

    #[test]
    fn following_changes_lowers_the_same(bytes in super::decisions(60..600), batch in 1_usize..5, which in any::<u8>()) {
        let mut world = World::new(settings(which));
        let mut compiler = Compiler::new();
        let mut old = Intent::default();
        let mut maps = full_on(&old, &host());
        let mut dice = Dice::new(&bytes.0);
        let mut story = Vec::new();
        while !dice.is_spent() {
            let mut touched = Touched::default();
            for _ in 0..batch {
                // Nodes and services share most with each other, so most goes wrong with them.
                let line = match dice.below(8) {
                    0 => peer(&mut dice),
                    1 => dice::service(&mut dice),
                    2..=4 => dice::slice(&mut dice),
                    _ => dice::line(&mut dice),
                };
                for change in changes(&line) {
                    touched.merge(world.apply(change).value);
                }
                story.push(line);
            }
            if dice.once_in(16) {
                let change = Change::Settings(Box::new(settings(u8::try_from(dice.below(256)).unwrap())));
                touched.merge(world.apply(change).value);
                story.push(format!("{:?}", world.settings()));
            }
            let new = compiler.turn(&world, &touched).value;
            let delta = crate::lower(&old, &new, &host()).value;
            delta.net.apply_to(&mut maps.0);
            delta.nft.apply_to(&mut maps.1);
            let full = full_on(&new, &host());
            if maps != full {
                let differs = |a: &dyn std::fmt::Debug, b: &dyn std::fmt::Debug| format!("got {a:#?}\nwanted {b:#?}");
                prop_assert!(maps.0 == full.0, "{}\n{}", story.join("\n"), differs(&maps.0, &full.0));
                prop_assert!(false, "{}\n{}", story.join("\n"), differs(&maps.1, &full.1));
            }
            old = new;
        }
        prop_assert_eq!(Table::from_objects(&maps.1).faults(), [], "{}", story.join("\n"));
    }
}
