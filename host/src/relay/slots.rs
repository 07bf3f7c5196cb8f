//! The bounds on connections: in all, and for one client. No client can keep all of them.
//!
//! A client is an address, since that is all that the relay knows. While there is room, a client may have up
//! to its own bound. When there is none, somebody makes room:
//!
//! 1. A client that holds fewer slots than another displaces a connection of the client that holds most:
//!    first one that never got as far as a TLS session, then the one on which nothing has moved for the
//!    longest time.
//! 2. Otherwise the oldest connection makes room that had [`GRACE`] and still is no TLS session. A client
//!    that has reached its own bound displaces such a connection of its own.
//!
//! So a stranger with one address, or with a few, cannot keep everybody else out, and silent connections keep
//! out nobody.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::connection::Carried;

/// How long a connection may take to become a TLS session before it makes room for a newcomer. It need not
/// make room, and then has longer ([`super::Times::opening`]).
const GRACE: Duration = Duration::from_secs(3);

/// Whom a connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Client {
    /// A program on this machine, over a Unix socket. The relay cannot tell one from another.
    Local,
    /// An IPv4 address.
    V4([u8; 4]),
    /// The first 64 bits of an IPv6 address: a subscriber usually has all addresses that begin with them.
    V6([u16; 4]),
}

impl Client {
    pub(super) fn new(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(address)) => Self::V4(address.octets()),
            Some(IpAddr::V6(address)) => {
                let [a, b, c, d, ..] = address.segments();
                Self::V6([a, b, c, d])
            }
        }
    }
}

impl fmt::Display for Client {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Local => formatter.write_str("this machine"),
            Self::V4(address) => Ipv4Addr::from(address).fmt(formatter),
            Self::V6([a, b, c, d]) => write!(formatter, "{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0)),
        }
    }
}

/// Why there is no slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoSlot {
    /// Every slot is taken, and no client holds more than this one would.
    Full,
    /// The client has as many connections as one may.
    Client,
}

/// All slots of a relay.
#[derive(Debug)]
pub(super) struct Slots {
    total: usize,
    per_client: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    connections: HashMap<u64, Connection>,
    /// How many slots each client has. A client without any is not in it.
    counts: HashMap<Client, usize>,
}

#[derive(Debug)]
struct Connection {
    client: Client,
    carried: Arc<Carried>,
    displaced: CancellationToken,
}

/// A slot of a connection. Dropping it gives the slot back.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Arc<Slots>,
    number: u64,
    /// What the connection carries, by which it is compared with others.
    pub(super) carried: Arc<Carried>,
    /// Cancelled when another client takes the slot. The connection ends then.
    pub(super) displaced: CancellationToken,
}

impl Slots {
    pub(super) fn new(total: usize, per_client: usize) -> Arc<Self> {
        Arc::new(Self { total, per_client, taken: Mutex::default() })
    }

    /// A slot for a new connection of `client`.
    pub(super) fn take(self: &Arc<Self>, client: Client) -> Result<Slot, NoSlot> {
        let mut taken = self.lock();
        let held = taken.counts.get(&client).copied().unwrap_or(0);
        if client != Client::Local && held >= self.per_client && !taken.displace_silent(Some(client)) {
            return Err(NoSlot::Client);
        }
        if taken.connections.len() >= self.total && !taken.displace_for(held) && !taken.displace_silent(None)
        {
            return Err(NoSlot::Full);
        }
        let number = taken.next;
        taken.next += 1;
        let (carried, displaced) = (Arc::new(Carried::new()), CancellationToken::new());
        let connection = Connection { client, carried: Arc::clone(&carried), displaced: displaced.clone() };
        taken.connections.insert(number, connection);
        *taken.counts.entry(client).or_default() += 1;
        Ok(Slot { slots: Arc::clone(self), number, carried, displaced })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Ends a connection of the client that has most, if it has more than a newcomer with `held` slots would
    /// have.
    fn displace_for(&mut self, held: usize) -> bool {
        let most = self.counts.values().copied().max().unwrap_or(0);
        if most <= held + 1 {
            return false;
        }
        let has_most = |client: &Client| self.counts.get(client) == Some(&most);
        let candidates = self.connections.iter().filter(|(_, connection)| has_most(&connection.client));
        // `false` comes before `true`, and a smaller time is longer ago.
        let victim = candidates
            .min_by_key(|(number, connection)| {
                (connection.carried.is_open(), connection.carried.last_moved(), **number)
            })
            .map(|(number, _)| *number);
        self.displace(victim)
    }

    /// Ends the oldest connection, of `client` or of anybody, that had its time and is no TLS session.
    fn displace_silent(&mut self, client: Option<Client>) -> bool {
        let silent = self.connections.iter().filter(|(_, connection)| {
            client.is_none_or(|client| connection.client == client)
                && !connection.carried.is_open()
                && connection.carried.age() >= GRACE
        });
        // Numbers rise with time.
        let oldest = silent.map(|(number, _)| *number).min();
        self.displace(oldest)
    }

    fn displace(&mut self, number: Option<u64>) -> bool {
        let Some(connection) = number.and_then(|number| self.give_back(number)) else { return false };
        connection.displaced.cancel();
        true
    }

    fn give_back(&mut self, number: u64) -> Option<Connection> {
        let connection = self.connections.remove(&number)?;
        if let Some(count) = self.counts.get_mut(&connection.client) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&connection.client);
            }
        }
        Some(connection)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // A connection that was displaced has given its slot back already.
        let _ = self.slots.lock().give_back(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    const ONE: Client = Client::V4([192, 0, 2, 1]);
    const TWO: Client = Client::V4([192, 0, 2, 2]);

    fn client(text: &str) -> Client {
        Client::new(Some(text.parse().unwrap()))
    }

    #[test]
    fn a_client_is_an_address_or_a_network_of_ipv6() {
        assert_eq!(client("::ffff:192.0.2.1"), ONE);
        assert_eq!(client("2001:db8:1:2::1"), client("2001:db8:1:2:ffff::9"));
        assert_ne!(client("2001:db8:1:2::1"), client("2001:db8:1:3::1"));
        assert_eq!(Client::new(None), Client::Local);
        for (address, shown) in [("::ffff:192.0.2.1", "192.0.2.1"), ("2001:db8:1:2::1", "2001:db8:1:2::/64")]
        {
            assert_eq!(client(address).to_string(), shown);
        }
    }

    #[test]
    fn one_client_has_its_own_bound_and_programs_on_this_machine_have_none() {
        let slots = Slots::new(4, 2);
        let held = [slots.take(ONE).unwrap(), slots.take(ONE).unwrap()];
        assert_eq!(slots.take(ONE).unwrap_err(), NoSlot::Client);
        let _two = slots.take(TWO).unwrap();
        drop(held);
        let _local: Vec<_> = (0..3).map(|_| slots.take(Client::Local).unwrap()).collect();
        assert_eq!(slots.take(Client::Local).unwrap_err(), NoSlot::Full);
        assert!(!slots.lock().counts.contains_key(&ONE), "who has no slot is forgotten");
    }

    #[test]
    fn a_client_that_takes_every_place_makes_room_for_others_until_all_have_as_many() {
        let slots = Slots::new(4, 4);
        let ones: Vec<_> = (0..4).map(|_| slots.take(ONE).unwrap()).collect();
        // Two of them have sessions. Of the others, the older is ended first.
        for number in [0, 2] {
            ones[number].carried.to_enclave.store(5000, Ordering::Relaxed);
            ones[number].carried.to_partner.store(5000, Ordering::Relaxed);
        }
        let displaced =
            |ones: &[Slot]| -> Vec<bool> { ones.iter().map(|slot| slot.displaced.is_cancelled()).collect() };
        let _first = slots.take(TWO).unwrap();
        assert_eq!(displaced(&ones), [false, true, false, false]);
        let _second = slots.take(TWO).unwrap();
        assert_eq!(displaced(&ones), [false, true, false, true]);
        // Both have two slots now.
        assert_eq!(slots.take(TWO).unwrap_err(), NoSlot::Full);
        assert_eq!(slots.take(ONE).unwrap_err(), NoSlot::Full);
        // A third client gets one of its own; giving back what was displaced changes nothing.
        drop(ones);
        let ones: Vec<_> = (0..2).map(|_| slots.take(ONE).unwrap()).collect();
        let _third = slots.take(client("192.0.2.3")).unwrap();
        assert_eq!(slots.lock().connections.len(), 4);
        drop(ones);
    }

    #[tokio::test(start_paused = true)]
    async fn silent_connections_make_room_once_they_had_their_time() {
        let slots = Slots::new(4, 2);
        let silent = [slots.take(ONE).unwrap(), slots.take(ONE).unwrap()];
        tokio::time::advance(GRACE.checked_sub(Duration::from_millis(1)).unwrap()).await;
        assert_eq!(slots.take(ONE).unwrap_err(), NoSlot::Client);
        tokio::time::advance(Duration::from_millis(1)).await;
        let third = slots.take(ONE).unwrap();
        assert!(silent[0].displaced.is_cancelled() && !silent[1].displaced.is_cancelled());
        // A session keeps its slot, and so does a newcomer.
        silent[1].carried.to_enclave.store(5000, Ordering::Relaxed);
        silent[1].carried.to_partner.store(5000, Ordering::Relaxed);
        assert_eq!(slots.take(ONE).unwrap_err(), NoSlot::Client);
        // With every slot taken and equal shares, the oldest silent connection of anybody makes room.
        let _two = [slots.take(TWO).unwrap(), slots.take(TWO).unwrap()];
        tokio::time::advance(GRACE).await;
        let _other = slots.take(client("192.0.2.3")).unwrap();
        assert!(third.displaced.is_cancelled());
        drop(silent);
    }
}
