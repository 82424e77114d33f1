//! The pool of a node's addresses and their owners.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use bowline_model::{Dual, Family};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::attachment::AttachmentKey;
use super::block::AddressRange;

/// What is wanted of an allocation beyond any address.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Want {
    /// These addresses and no others (at most one a family); the other family is allocated as usual.
    pub ips: Vec<IpAddr>,
    /// Only from these ranges, for the families that occur in them.
    pub ranges: Vec<AddressRange>,
}

/// How full a pool is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Addresses that pods may have; the largest number stands for anything above it.
    pub total: u128,
    /// Those that pods have.
    pub used: u128,
}

/// Why an address could not be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// The node has no pod CIDR yet.
    #[error("this node has no pod CIDR: its Node object needs spec.podCIDRs")]
    NoBlocks,
    /// Everything is in use.
    #[error("no {family} address is free in {blocks}: {used} of {total} in use")]
    Exhausted {
        /// The family.
        family: Family,
        /// The prefixes or ranges that were searched.
        blocks: String,
        /// Addresses in use.
        used: u128,
        /// Addresses there are.
        total: u128,
    },
    /// What is free may not be given yet.
    #[error("no {family} address is free in {blocks} but {kept_back} that others had a moment ago and that are kept back")]
    AllKeptBack {
        /// The family.
        family: Family,
        /// The prefixes or ranges that were searched.
        blocks: String,
        /// Addresses that are free and kept back.
        kept_back: u128,
    },
    /// The requested address is free and may not be given yet.
    #[error("address {address} was another's a moment ago and is kept back")]
    KeptBack {
        /// The address.
        address: IpAddr,
    },
    /// The requested address has an owner.
    #[error("address {address} belongs to {owner}")]
    Taken {
        /// The address.
        address: IpAddr,
        /// Its owner.
        owner: AttachmentKey,
    },
    /// The requested address is not one of this node's.
    #[error("address {address} cannot be given here: pods of this node have addresses of {blocks}, without the first two and the last")]
    Outside {
        /// The address.
        address: IpAddr,
        /// The node's prefixes.
        blocks: String,
    },
    /// Two addresses of one family were requested.
    #[error("addresses {first} and {second} are both {family}: a pod has one of each family")]
    TwoOfAFamily {
        /// The family.
        family: Family,
        /// One address.
        first: IpAddr,
        /// The other.
        second: IpAddr,
    },
}

impl IpamError {
    /// Whether the same request may succeed later.
    pub fn may_retry(&self) -> bool {
        match self {
            IpamError::NoBlocks | IpamError::Exhausted { .. } | IpamError::Taken { .. } => true,
            IpamError::AllKeptBack { .. } | IpamError::KeptBack { .. } => true,
            IpamError::Outside { .. } | IpamError::TwoOfAFamily { .. } => false,
        }
    }

    /// Whether it takes nothing but a little time: what is free is kept back.
    pub fn is_kept_back(&self) -> bool {
        matches!(self, IpamError::AllKeptBack { .. } | IpamError::KeptBack { .. })
    }
}

/// One prefix of the node, and how far it has been used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Block {
    cidr: IpNet,
    /// Every address below was used once (or asked for by name); none when the end is reached.
    next: Option<IpAddr>,
}

impl Block {
    fn new(cidr: IpNet) -> Block {
        Block { cidr, next: Some(AddressRange::usable(&cidr).first) }
    }

    fn usable(&self) -> AddressRange {
        AddressRange::usable(&self.cidr)
    }
}

/// The addresses of a node's prefixes, with their owners.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Pool {
    blocks: Vec<Block>,
    held: BTreeMap<AttachmentKey, Dual<IpAddr>>,
    owners: BTreeMap<IpAddr, AttachmentKey>,
    /// When an address was given back, for those that are free.
    released: BTreeMap<IpAddr, u64>,
    /// The same, longest free first.
    queue: BTreeSet<(u64, IpAddr)>,
}

/// The pool as it is written down.
#[derive(Serialize, Deserialize)]
struct Written {
    blocks: Vec<Block>,
    held: Vec<(AttachmentKey, Dual<IpAddr>)>,
    released: Vec<(IpAddr, u64)>,
}

impl Pool {
    /// An unused pool over a node's pod CIDRs.
    pub fn new(cidrs: impl IntoIterator<Item = IpNet>) -> Pool {
        let mut pool = Pool::default();
        pool.set_cidrs(cidrs);
        pool
    }

    /// Changes the prefixes. Owners keep what they have, also outside of the new ones.
    pub fn set_cidrs(&mut self, cidrs: impl IntoIterator<Item = IpNet>) {
        let mut blocks: Vec<Block> = Vec::new();
        for cidr in cidrs.into_iter().map(|cidr| cidr.trunc()) {
            // A prefix inside another would hand out the same addresses twice as fresh.
            if blocks.iter().any(|block| block.cidr.contains(&cidr)) {
                continue;
            }
            blocks.retain(|block| !cidr.contains(&block.cidr));
            let known = self.blocks.iter().find(|block| block.cidr == cidr);
            blocks.push(known.cloned().unwrap_or_else(|| Block::new(cidr)));
        }
        self.blocks = blocks;
    }

    /// The prefixes.
    pub fn cidrs(&self) -> impl Iterator<Item = IpNet> {
        self.blocks.iter().map(|block| block.cidr)
    }

    /// Gives the attachment one address of each family that the pool has; those that it holds, if it holds any. Of what is free it gives only what
    /// is `rested`: what nobody takes for its former owner's any more.
    ///
    /// # Errors
    /// See [`IpamError`]; nothing is taken then.
    pub fn allocate(&mut self, key: &AttachmentKey, want: &Want, rested: &dyn Fn(&IpAddr) -> bool) -> Result<Dual<IpAddr>, IpamError> {
        if let Some(held) = self.held.get(key) {
            return Ok(*held);
        }
        if self.blocks.is_empty() {
            return Err(IpamError::NoBlocks);
        }
        let mut requested: Dual<IpAddr> = Dual::default();
        for address in &want.ips {
            let family = Family::of(address);
            if let Some(first) = requested.get_mut(family).replace(*address).filter(|first| first != address) {
                return Err(IpamError::TwoOfAFamily { family, first, second: *address });
            }
        }
        let mut chosen = Dual::default();
        for family in Family::BOTH {
            let choice = match requested.get(family) {
                Some(address) => Some(self.check_requested(*address, rested)?),
                None => self.choose(family, &want.ranges, rested)?,
            };
            *chosen.get_mut(family) = choice;
        }
        self.take(key, chosen);
        Ok(chosen)
    }

    /// Gives an attachment back what it held before a restart.
    ///
    /// # Errors
    /// [`IpamError::Taken`] when another one holds an address of it; nothing is taken then.
    pub fn restore(&mut self, key: &AttachmentKey, ips: Dual<IpAddr>) -> Result<(), IpamError> {
        let foreign = ips.values().find_map(|ip| self.owners.get(ip).filter(|owner| *owner != key).map(|owner| (*ip, owner)));
        if let Some((address, owner)) = foreign {
            return Err(IpamError::Taken { address, owner: owner.clone() });
        }
        self.release(key, 0);
        self.take(key, ips);
        Ok(())
    }

    /// Takes back what the attachment holds, if it holds anything. `now` is any number that never falls (a count of
    /// changes, say): it orders reuse.
    pub fn release(&mut self, key: &AttachmentKey, now: u64) -> Option<Dual<IpAddr>> {
        let ips = self.held.remove(key)?;
        for ip in ips.values() {
            self.owners.remove(ip);
            self.note_release(*ip, now);
        }
        Some(ips)
    }

    /// What the attachment holds.
    pub fn held(&self, key: &AttachmentKey) -> Option<Dual<IpAddr>> {
        self.held.get(key).copied()
    }

    /// Who holds the address.
    pub fn owner(&self, address: &IpAddr) -> Option<&AttachmentKey> {
        self.owners.get(address)
    }

    /// Every attachment with what it holds.
    pub fn iter(&self) -> impl Iterator<Item = (&AttachmentKey, &Dual<IpAddr>)> {
        self.held.iter()
    }

    /// How full the prefixes of the family are.
    pub fn usage(&self, family: Family) -> Usage {
        self.usage_of(&self.ranges(family))
    }

    fn usage_of(&self, ranges: &[AddressRange]) -> Usage {
        let used = |range: &AddressRange| self.owners.range(range.first..=range.last).count() as u128;
        ranges.iter().fold(Usage::default(), |sum, range| Usage {
            total: sum.total.saturating_add(range.len()),
            used: sum.used.saturating_add(used(range)),
        })
    }

    fn ranges(&self, family: Family) -> Vec<AddressRange> {
        self.blocks.iter().map(Block::usable).filter(|range| range.family() == family).collect()
    }

    fn check_requested(&self, address: IpAddr, rested: &dyn Fn(&IpAddr) -> bool) -> Result<IpAddr, IpamError> {
        if let Some(owner) = self.owners.get(&address) {
            return Err(IpamError::Taken { address, owner: owner.clone() });
        }
        match self.blocks.iter().any(|block| block.usable().contains(&address)) {
            true if rested(&address) => Ok(address),
            true => Err(IpamError::KeptBack { address }),
            false => Err(IpamError::Outside { address, blocks: self.describe() }),
        }
    }

    fn describe(&self) -> String {
        let cidrs: Vec<String> = self.cidrs().map(|cidr| cidr.to_string()).collect();
        cidrs.join(", ")
    }

    /// A free address, or nothing if the pool has no prefix of the family and none is asked for.
    fn choose(&mut self, family: Family, limits: &[AddressRange], rested: &dyn Fn(&IpAddr) -> bool) -> Result<Option<IpAddr>, IpamError> {
        let limits: Vec<AddressRange> = limits.iter().filter(|limit| limit.family() == family).copied().collect();
        let own = self.ranges(family);
        if limits.is_empty() {
            if own.is_empty() {
                return Ok(None);
            }
            let chosen = self.fresh(family, rested).or_else(|| self.longest_free(&own, rested));
            return chosen.map(Some).ok_or_else(|| self.exhausted(family, &own));
        }
        let within: Vec<AddressRange> = limits.iter().flat_map(|limit| own.iter().filter_map(move |range| limit.overlap(range))).collect();
        let chosen = self.fresh_within(&within, rested).or_else(|| self.longest_free(&within, rested));
        chosen.map(Some).ok_or_else(|| self.exhausted(family, &within))
    }

    fn exhausted(&self, family: Family, ranges: &[AddressRange]) -> IpamError {
        let (Usage { total, used }, blocks) = (self.usage_of(ranges), self.describe());
        match total.saturating_sub(used) {
            0 => IpamError::Exhausted { family, blocks, used, total },
            kept_back => IpamError::AllKeptBack { family, blocks, kept_back },
        }
    }

    /// The first address that was never used. Moves the mark of its block up to it, so that a search costs what was used since.
    fn fresh(&mut self, family: Family, rested: &dyn Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let (owners, released) = (&self.owners, &self.released);
        let unused = |ip: &IpAddr| !owners.contains_key(ip) && !released.contains_key(ip);
        self.blocks.iter_mut().filter(|block| Family::of_prefix(&block.cidr) == family).find_map(|block| {
            block.next = block.usable().iter_from(block.next?).find(unused);
            block.usable().iter_from(block.next?).find(|ip| unused(ip) && rested(ip))
        })
    }

    fn fresh_within(&self, ranges: &[AddressRange], rested: &dyn Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let unused = |ip: &IpAddr| !self.owners.contains_key(ip) && !self.released.contains_key(ip) && rested(ip);
        ranges.iter().find_map(|range| range.iter_from(range.first).find(unused))
    }

    fn longest_free(&self, ranges: &[AddressRange], rested: &dyn Fn(&IpAddr) -> bool) -> Option<IpAddr> {
        let fits = |ip: &IpAddr| ranges.iter().any(|range| range.contains(ip)) && rested(ip);
        self.queue.iter().map(|(_, ip)| *ip).find(fits)
    }

    fn take(&mut self, key: &AttachmentKey, ips: Dual<IpAddr>) {
        for ip in ips.values() {
            if let Some(since) = self.released.remove(ip) {
                self.queue.remove(&(since, *ip));
            }
            self.owners.insert(*ip, key.clone());
        }
        self.held.insert(key.clone(), ips);
    }

    fn note_release(&mut self, ip: IpAddr, now: u64) {
        self.released.insert(ip, now);
        self.queue.insert((now, ip));
    }
}

impl From<Pool> for Written {
    fn from(pool: Pool) -> Written {
        Written { blocks: pool.blocks, held: pool.held.into_iter().collect(), released: pool.released.into_iter().collect() }
    }
}

impl TryFrom<Written> for Pool {
    type Error = IpamError;

    fn try_from(written: Written) -> Result<Pool, IpamError> {
        let mut pool = Pool { blocks: written.blocks, ..Pool::default() };
        for (ip, since) in written.released {
            pool.note_release(ip, since);
        }
        for (key, ips) in written.held {
            pool.restore(&key, ips)?;
        }
        Ok(pool)
    }
}
