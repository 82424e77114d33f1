//! `clusterIP(s)`, `ipFamilies` and `ipFamilyPolicy` of a service.
//!
//! Reference: "IPv4/IPv6 dual-stack" and "Service" in the Kubernetes documentation.

use std::net::IpAddr;

use ipnet::IpNet;
use serde_json::{Value, json};

use super::super::facts::fnv1a;
use super::super::runtime::Key;
use super::Ranges;
use super::used::Used;
use crate::error::Cause;
use crate::object::{self, items, text};

/// An address family by its Kubernetes name.
type FamilyName = &'static str;

const V4: FamilyName = "IPv4";
const V6: FamilyName = "IPv6";

fn family_of(ip: &IpAddr) -> FamilyName {
    if ip.is_ipv4() { V4 } else { V6 }
}

fn family_of_range(range: &IpNet) -> FamilyName {
    family_of(&range.addr())
}

/// Addresses in use or given, as far as they are known before anything is allocated.
struct Wish {
    given: Vec<String>,
    families: Vec<FamilyName>,
    policy: String,
    headless: bool,
}

/// Fills in, keeps or refuses a service's addresses.
pub(super) fn settle(ranges: &Ranges, used: &Used, owner: &Key, old: Option<&Value>, service: &mut Value, causes: &mut Vec<Cause>) {
    if text(service, "/spec/type") == "ExternalName" {
        let spec = object::child(service, "spec");
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            spec.remove(field);
        }
        return;
    }
    let before = causes.len();
    let wish = read_wish(ranges, old, service, causes);
    let families = choose_families(ranges, &wish, causes);
    if causes.len() > before {
        return;
    }
    let ips = if wish.headless { vec!["None".to_owned()] } else { give(ranges, used, owner, &wish, &families, causes) };
    if causes.len() > before {
        return;
    }
    let dual = families.len() > 1;
    let policy = match wish.policy.as_str() {
        "" if dual => "RequireDualStack",
        "" => "SingleStack",
        given => given,
    };
    let spec = object::child(service, "spec");
    spec.insert("clusterIP".to_owned(), json!(ips.first()));
    spec.insert("clusterIPs".to_owned(), json!(ips));
    spec.insert("ipFamilies".to_owned(), json!(families));
    spec.insert("ipFamilyPolicy".to_owned(), json!(policy));
}

fn read_wish(ranges: &Ranges, old: Option<&Value>, service: &Value, causes: &mut Vec<Cause>) -> Wish {
    let old = old.filter(|old| text(old, "/spec/type") != "ExternalName");
    let mut given = addresses(service);
    let had = old.map(addresses).unwrap_or_default();
    let single = text(service, "/spec/clusterIP");
    if let (Some(first), false) = (given.first(), single.is_empty())
        && first != single
    {
        causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(first), "must match spec.clusterIP"));
    }
    if !had.is_empty() {
        if given.is_empty() {
            given.clone_from(&had); // a writer that does not know it does not mean to change it
        } else if given.first() != had.first() {
            causes.push(Cause::invalid("spec.clusterIPs[0]", &json!(given.first()), "may not change once set"));
        }
    }
    let mut families = Vec::new();
    for (index, family) in items(service, "/spec/ipFamilies").enumerate() {
        match family.as_str() {
            Some("IPv4") => families.push(V4),
            Some("IPv6") => families.push(V6),
            _ => causes.push(Cause::unsupported(format!("spec.ipFamilies[{index}]"), family, &[V4, V6])),
        }
    }
    if families.is_empty() {
        families = given.iter().filter_map(|ip| ip.parse().ok()).map(|ip| family_of(&ip)).collect();
    }
    if let [first, second] = families.as_slice()
        && first == second
    {
        causes.push(Cause::duplicate("spec.ipFamilies[1]", &json!(second)));
    }
    let headless = given.first().is_some_and(|ip| ip == "None");
    let mut policy = text(service, "/spec/ipFamilyPolicy").to_owned();
    let no_selector = object::entries(service, "/spec/selector").next().is_none();
    if policy.is_empty() && families.is_empty() && headless && no_selector && families_of(ranges).len() > 1 {
        policy = "RequireDualStack".to_owned();
    }
    Wish { given, families, policy, headless }
}

fn addresses(service: &Value) -> Vec<String> {
    let listed: Vec<String> = items(service, "/spec/clusterIPs").filter_map(Value::as_str).map(str::to_owned).collect();
    let single = text(service, "/spec/clusterIP");
    if listed.is_empty() && !single.is_empty() { vec![single.to_owned()] } else { listed }
}

/// The cluster's families, the primary one first.
fn families_of(ranges: &Ranges) -> Vec<FamilyName> {
    let mut families: Vec<FamilyName> = Vec::new();
    for family in ranges.cidrs.iter().map(family_of_range) {
        if !families.contains(&family) {
            families.push(family);
        }
    }
    families
}

fn choose_families(ranges: &Ranges, wish: &Wish, causes: &mut Vec<Cause>) -> Vec<FamilyName> {
    let known = families_of(ranges);
    for (index, family) in wish.families.iter().enumerate().filter(|(_, family)| !known.contains(family)) {
        let hint = "not configured on this cluster";
        causes.push(Cause::invalid(format!("spec.ipFamilies[{index}]"), &json!(family), hint));
    }
    let mut families = wish.families.clone();
    if families.is_empty() {
        families.extend(known.first());
    }
    match wish.policy.as_str() {
        "" => {}
        "SingleStack" => families.truncate(1),
        "PreferDualStack" | "RequireDualStack" => {
            if wish.policy == "RequireDualStack" && known.len() < 2 {
                let hint = "this cluster is not configured for dual-stack services";
                causes.push(Cause::invalid("spec.ipFamilyPolicy", &json!(wish.policy), hint));
            }
            let others: Vec<FamilyName> = known.into_iter().filter(|family| !families.contains(family)).collect();
            families.extend(others);
        }
        other => {
            let known = ["PreferDualStack", "RequireDualStack", "SingleStack"];
            causes.push(Cause::unsupported("spec.ipFamilyPolicy", &json!(other), &known));
        }
    }
    families
}

fn give(ranges: &Ranges, used: &Used, owner: &Key, wish: &Wish, families: &[FamilyName], causes: &mut Vec<Cause>) -> Vec<String> {
    let mut ips = Vec::new();
    for (index, family) in families.iter().enumerate() {
        let at = format!("spec.clusterIPs[{index}]");
        let ip = match wish.given.get(index) {
            Some(given) => check(ranges, used, owner, given, family).map_err(|hint| Cause::invalid(at, &json!(given), &hint)),
            None => allocate(ranges, used, owner, family)
                .ok_or_else(|| Cause::invalid(at, &Value::Null, &format!("failed to allocate a serviceIP: the {family} range is full"))),
        };
        match ip {
            Ok(ip) => ips.push(ip.to_string()),
            Err(cause) => causes.push(cause),
        }
    }
    ips
}

/// Whether the service may have the address that it asks for.
fn check(ranges: &Ranges, used: &Used, owner: &Key, given: &str, family: FamilyName) -> Result<IpAddr, String> {
    let ip: IpAddr = given.parse().map_err(|_| "must be a valid IP address, or None".to_owned())?;
    if family_of(&ip) != family {
        return Err(format!("expected an {family} address as spec.ipFamilies says"));
    }
    if let Some((ns, name)) = used.owner_of_ip(&ip, owner) {
        return Err(format!("failed to allocate IP {ip}: provided IP is already allocated (by service {ns}/{name})"));
    }
    let mine = ranges.cidrs.iter().find(|range| range.contains(&ip));
    let Some(range) = mine else {
        let valid: Vec<String> = ranges.cidrs.iter().map(ToString::to_string).collect();
        return Err(format!("the provided IP is not in the valid range {}", valid.join(",")));
    };
    if ip == range.network() || (ip.is_ipv4() && ip == range.broadcast()) {
        return Err(format!("the provided IP is the network's own or the broadcast address of {range}"));
    }
    Ok(ip)
}

/// A free address of the family: from a place that the service's name gives, so that a cluster built twice looks the same.
fn allocate(ranges: &Ranges, used: &Used, owner: &Key, family: FamilyName) -> Option<IpAddr> {
    let seed = u128::from(fnv1a(format!("{}/{}", owner.0, owner.1).as_bytes()));
    ranges.cidrs.iter().filter(|range| family_of_range(range) == family).find_map(|range| {
        let host_bits = u32::from(range.max_prefix_len() - range.prefix_len()).min(64);
        let size = 1_u128 << host_bits;
        let last = if family == V4 { size.checked_sub(2)? } else { size - 1 };
        // The lower part is tried last: it is for those who choose.
        let band = (size / 16).clamp(16, 256).min(size / 2);
        let spread = (last + 1).saturating_sub(band).max(1);
        let upper = (0..spread).map(|step| band + (seed + step) % spread);
        let lower = (1..band).rev();
        let free = |ip: &IpAddr| !used.has_ip(ip) && !ranges.reserved.contains(ip);
        upper.chain(lower).filter(|offset| (1..=last).contains(offset)).filter_map(|offset| nth(range, offset)).find(free)
    })
}

fn nth(range: &IpNet, offset: u128) -> Option<IpAddr> {
    match range.network() {
        IpAddr::V4(network) => {
            let bits = network.to_bits().checked_add(u32::try_from(offset).ok()?)?;
            Some(std::net::Ipv4Addr::from_bits(bits).into())
        }
        IpAddr::V6(network) => Some(std::net::Ipv6Addr::from_bits(network.to_bits().checked_add(offset)?).into()),
    }
}
