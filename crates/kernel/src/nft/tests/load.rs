//! The usual size of a large cluster: how long it takes is printed, not judged.

use std::net::Ipv4Addr;
use std::time::Instant;

use bowline_dataplane::objects::nft::{MetaKey, PayloadBase, Reg};
use bowline_model::Family;

use super::*;

fn service_key(n: u32) -> KeyBuilder {
    KeyBuilder::new().ip(Ipv4Addr::from(0x0a60_0000 + n).into()).proto(6).port(80)
}

fn cluster(services: u32, endpoints: u32) -> Objects {
    let mut objects = Objects::new();
    let service = [Field::Ipv4, Field::Proto, Field::Port];
    objects.insert(set_key("svc4"), NftObject::Set(set_of(&service, SetData::Verdict)));
    let data = SetData::Value(vec![Field::Ipv4, Field::Port]);
    objects.insert(set_key("ep4"), NftObject::Set(set_of(&[Field::Ipv4, Field::Proto, Field::Port, Field::Index], data)));
    let key = vec![
        Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, to: Reg(0) },
        Expr::Meta { key: MetaKey::L4Proto, to: Reg(1) },
        Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, to: Reg(2) },
    ];
    let pick = vec![
        Expr::Random { to: Reg(3), modulus: endpoints },
        Expr::LookupValue { set: "ep4".into(), key: Reg(0), to: Reg(4) },
        Expr::Dnat { family: Family::V4, address: Reg(4), port: Some(Reg(5)) },
    ];
    let chain_name = format!("n_{endpoints}");
    objects.insert(chain_key(&chain_name), chain(vec![rule([key.clone(), pick].concat())]));
    let look = vec![Expr::LookupVerdict { set: "svc4".into(), key: Reg(0) }];
    objects.insert(chain_key("services"), base(ChainKind::Nat, Hook::Prerouting, -100, vec![rule([key, look].concat())]));
    for n in 0..services {
        objects.insert(element_key("svc4", service_key(n)), point(ElementData::Verdict(goto(&chain_name))));
        for index in 0..endpoints {
            let endpoint = KeyBuilder::new().ip(Ipv4Addr::from(0x0a2a_0000 + n * endpoints + index).into()).port(8080);
            objects.insert(element_key("ep4", service_key(n).host_u32(index)), point(value(endpoint)));
        }
    }
    objects
}

fn measure(what: &str, run: impl FnOnce()) {
    let begin = Instant::now();
    run();
    println!("{what}: {:.1} ms", begin.elapsed().as_secs_f64() * 1000.0);
}

#[test]
fn ten_thousand_services() {
    let Some((ns, mut driver)) = start() else { return };
    let want = cluster(10_000, 2);
    let all = Delta::between(&Objects::new(), &want);
    measure("10,000 services x 2 endpoints, loaded", || apply(&mut driver, &all));
    measure("read back and compared", || assert_equal(&ns, &want));
    let mut one = Delta::default();
    one.put(element_key("ep4", service_key(77).host_u32(1)), point(value(ip("10.42.255.1").port(8081))));
    measure("one endpoint changed", || apply(&mut driver, &one));
    let mut new = want.clone();
    one.apply_to(&mut new);
    measure("read back and compared", || assert_equal(&ns, &new));
    measure("all removed", || turn(&mut driver, &new, &Objects::new()));
    assert_equal(&ns, &Objects::new());
}

#[test]
fn large_additions_come_in_parts_before_the_rest() {
    let Some((ns, mut driver)) = start() else { return };
    driver.part_elements = 300;
    let want = cluster(500, 3);
    turn(&mut driver, &Objects::new(), &want);
    assert_equal(&ns, &want);
    let more = cluster(700, 3);
    turn(&mut driver, &want, &more);
    assert_equal(&ns, &more);
}
