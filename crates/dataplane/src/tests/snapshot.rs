//! The lowered form of a small intent, to read.

use expect_test::expect;

use super::bench::full;
use super::notation::parse;
use super::render::{net, nft};

#[test]
fn a_small_node() {
    let setup = "pods a
        svc v1:80/tcp -> a:8080 x:8080
        svc v1:443/tcp -> x:8443 aff=10
        policy web a in: x tcp/80";
    let (links, rules) = full(&parse(setup));
    expect_test::expect_file!["snapshot.nft.txt"].assert_eq(&nft(&rules));
    expect![[r#"
        Link("bowline.1") = Link(LinkSpec { kind: Vxlan { vni: 1, port: 8472, local: 10.0.0.1, device: "eth0" }, mac: Some(MacAddr([2, 0, 0, 0, 255, 1])), mtu_bytes: 1450 })
        Sysctl("net/ipv4/conf/all/rp_filter") = Sysctl("0")
        Sysctl("net/ipv4/conf/bowline.1/rp_filter") = Sysctl("0")
        Sysctl("net/ipv4/conf/bwla/rp_filter") = Sysctl("0")
        Sysctl("net/ipv4/ip_forward") = Sysctl("1")
        Sysctl("net/ipv6/conf/all/forwarding") = Sysctl("1")
        Sysctl("net/netfilter/nf_conntrack_tcp_timeout_close_wait") = Sysctl("3600")
        Address { link: "bowline.1", address: 10.42.1.0/32 } = Address
        Address { link: "bowline.1", address: fd42:0:0:1::/128 } = Address
        Neighbour { link: "bowline.1", address: 10.42.2.0 } = Neighbour(MacAddr([2, 0, 0, 0, 255, 2]))
        Neighbour { link: "bowline.1", address: 10.42.3.0 } = Neighbour(MacAddr([2, 0, 0, 0, 255, 3]))
        Neighbour { link: "bowline.1", address: fd42:0:0:2:: } = Neighbour(MacAddr([2, 0, 0, 0, 255, 2]))
        Neighbour { link: "bowline.1", address: fd42:0:0:3:: } = Neighbour(MacAddr([2, 0, 0, 0, 255, 3]))
        Neighbour { link: "bwla", address: 10.42.1.2 } = Neighbour(MacAddr([2, 0, 0, 0, 1, 97]))
        Neighbour { link: "bwla", address: fd42:0:0:1::2 } = Neighbour(MacAddr([2, 0, 0, 0, 1, 97]))
        Forwarding { link: "bowline.1", mac: MacAddr([2, 0, 0, 0, 255, 2]) } = Forwarding(10.0.0.2)
        Forwarding { link: "bowline.1", mac: MacAddr([2, 0, 0, 0, 255, 3]) } = Forwarding(10.0.0.3)
        Route { table: 254, destination: 10.42.0.0/16, metric: 4278198272 } = Route(Unreachable)
        Route { table: 254, destination: 10.42.1.2/32, metric: 0 } = Route(Unicast { link: "bwla", gateway: None, source: Some(10.0.0.1), mtu_bytes: None })
        Route { table: 254, destination: 10.42.2.0/24, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(10.42.2.0), source: Some(10.0.0.1), mtu_bytes: None })
        Route { table: 254, destination: 10.42.3.0/24, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(10.42.3.0), source: Some(10.0.0.1), mtu_bytes: None })
        Route { table: 254, destination: fd42::/48, metric: 4278198272 } = Route(Unreachable)
        Route { table: 254, destination: fd42:0:0:1::2/128, metric: 0 } = Route(Unicast { link: "bwla", gateway: None, source: Some(fd00::1), mtu_bytes: None })
        Route { table: 254, destination: fd42:0:0:2::/64, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(fd42:0:0:2::), source: Some(fd00::1), mtu_bytes: None })
        Route { table: 254, destination: fd42:0:0:3::/64, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(fd42:0:0:3::), source: Some(fd00::1), mtu_bytes: None })
        Route { table: 185204736, destination: 10.0.0.2/32, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(10.42.2.0), source: None, mtu_bytes: None })
        Route { table: 185204736, destination: 10.0.0.3/32, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(10.42.3.0), source: None, mtu_bytes: None })
        Route { table: 185204736, destination: fd00::2/128, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(fd42:0:0:2::), source: None, mtu_bytes: None })
        Route { table: 185204736, destination: fd00::3/128, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(fd42:0:0:3::), source: None, mtu_bytes: None })
        Route { table: 185204738, destination: 0.0.0.0/0, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(10.42.2.0), source: None, mtu_bytes: None })
        Route { table: 185204738, destination: ::/0, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(fd42:0:0:2::), source: None, mtu_bytes: None })
        Route { table: 185204739, destination: 0.0.0.0/0, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(10.42.3.0), source: None, mtu_bytes: None })
        Route { table: 185204739, destination: ::/0, metric: 0 } = Route(Unicast { link: "bowline.1", gateway: Some(fd42:0:0:3::), source: None, mtu_bytes: None })
        Rule { family: V4, priority: 2010, selector: Mark { value: 131072, mask: 4294901760 } } = Rule(Table(185204738))
        Rule { family: V4, priority: 2010, selector: Mark { value: 196608, mask: 4294901760 } } = Rule(Table(185204739))
        Rule { family: V4, priority: 2020, selector: From(10.42.1.0/24) } = Rule(Table(185204736))
        Rule { family: V6, priority: 2010, selector: Mark { value: 131072, mask: 4294901760 } } = Rule(Table(185204738))
        Rule { family: V6, priority: 2010, selector: Mark { value: 196608, mask: 4294901760 } } = Rule(Table(185204739))
        Rule { family: V6, priority: 2020, selector: From(fd42:0:0:1::/64) } = Rule(Table(185204736))
    "#]].assert_eq(&net(&links));
}
