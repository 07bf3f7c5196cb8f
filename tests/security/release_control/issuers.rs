//! A hostile issuer and the host together, where two of three issuers must give a lease: they lift no halt, prevent none, and
//! stop nothing for longer than an issuer that is needed is missing.

use cleanroom_attestation::digest::Sha256Digest;
use cleanroom_attestation::release::{Accepted, LeaseRequest, Target};
use cleanroom_link::control::{ControlAnswer, ControlKind};
use cleanroom_tests::released_room::ReleasedRoom;

const NEW: ControlAnswer = ControlAnswer::Accepted(Accepted::New);
const MORE: ControlAnswer = ControlAnswer::Accepted(Accepted::MoreIssuersNeeded);

/// The issuer whose key the adversary has.
const HOSTILE: usize = 0;

/// A clean room in which release 1 was handed in.
async fn released() -> (ReleasedRoom, Vec<u8>) {
    let mut room = ReleasedRoom::start().await;
    let release = of_two_issuers(&room, 1);
    let _ = room.hand(ControlKind::RELEASE, &release).await;
    (room, release)
}

fn of_two_issuers(room: &ReleasedRoom, version: u64) -> Vec<u8> {
    let mut release = room.release(version);
    release.lease.issuers = 2;
    room.authorities.sign(&release)
}

/// Hands in the leases of two honest issuers that know `denials`; what the enclave says to the second.
async fn honest(room: &mut ReleasedRoom, release: &[u8], denials: &[&[u8]]) -> ControlAnswer {
    let request = room.control.ask().await;
    let first = room.authorities.lease_of(1, &request, release, denials);
    let _ = room.hand(ControlKind::LEASE, &first).await;
    let second = room.authorities.lease_of(2, &request, release, denials);
    room.hand(ControlKind::LEASE, &second).await
}

/// A lease in which the hostile issuer says what a denial halts, as leases once did.
fn notice(room: &ReleasedRoom, request: &LeaseRequest, version: u64, denial: Sha256Digest) -> Vec<u8> {
    let LeaseRequest { nonce, root_version, root_sha256, release_sha256 } = request;
    let denials = format!(r#"[{{"denial":"{denial}","halt":{{"partner":"nobody"}}}}]"#);
    let release = format!(r#"{{"version":{version},"sha256":"{release_sha256}"}}"#);
    let root = format!(r#"{{"version":{root_version},"sha256":"{root_sha256}"}}"#);
    let lease = format!(
        r#"{{"nonce":"{nonce}","root":{root},"release":{release},"seconds":60,"denials":{denials}}}"#
    );
    room.authorities.hostile_payload(HOSTILE, lease.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_issuer_cannot_take_a_denials_effect_before_it_comes() {
    let (mut room, release) = released().await;
    let (denial, digest) = room.authorities.deny_model();
    let request = room.control.ask().await;
    // It knows the digest, and says first what the denial halts.
    let says = notice(&room, &request, 1, digest);
    assert_eq!(room.refused(ControlKind::LEASE, &says).await, "form");
    let lists = room.authorities.hostile_lease(HOSTILE, &request, 1, 60, &[digest]);
    assert_eq!(room.refused(ControlKind::LEASE, &lists).await, "denial-missing");
    let silent = room.authorities.hostile_lease(HOSTILE, &request, 1, 60, &[]);
    assert_eq!(room.hand(ControlKind::LEASE, &silent).await, MORE);
    // An honest issuer, who knows the denial, is needed: its lease counts where the denial is in force, and nowhere else.
    let lease = room.authorities.lease_of(1, &request, &release, &[&denial]);
    assert_eq!(room.refused(ControlKind::LEASE, &lease).await, "denial-missing");
    assert_eq!(room.asked().await, "no-lease");
    assert_eq!(room.hand(ControlKind::DENIAL, &denial).await, NEW);
    assert_eq!(room.hand(ControlKind::LEASE, &lease).await, NEW);
    assert_eq!(room.asked().await, "model-denied");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_issuer_and_a_routine_release_lift_no_halt() {
    let (mut room, release) = released().await;
    assert_eq!(honest(&mut room, &release, &[]).await, NEW);
    assert_eq!(room.asked().await, "served");
    let (denial, digest) = room.authorities.deny_model();
    assert_eq!(room.hand(ControlKind::DENIAL, &denial).await, NEW);
    assert_eq!(room.asked().await, "model-denied");

    let routine = of_two_issuers(&room, 2);
    for (version, release) in [(1, release), (2, routine)] {
        let _ = room.hand(ControlKind::RELEASE, &release).await;
        let request = room.control.ask().await;
        let says = notice(&room, &request, version, digest);
        assert_eq!(room.refused(ControlKind::LEASE, &says).await, "form");
        for denials in [&[][..], &[digest]] {
            let lease = room.authorities.hostile_lease(HOSTILE, &request, version, 60, denials);
            assert_eq!(room.hand(ControlKind::LEASE, &lease).await, MORE);
        }
        let lease = room.authorities.lease_of(1, &request, &release, &[&denial]);
        assert_eq!(room.hand(ControlKind::LEASE, &lease).await, NEW);
        assert_eq!(room.asked().await, "model-denied", "release {version} lifts nothing");
        // Nor does a second time around, with the genuine denial played again.
        assert_eq!(honest(&mut room, &release, &[&denial]).await, NEW);
        let _ = room.hand(ControlKind::DENIAL, &denial).await;
        assert_eq!(room.asked().await, "model-denied");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_issuer_halts_nothing_however_much_it_invents() {
    let (mut room, release) = released().await;
    assert_eq!(honest(&mut room, &release, &[]).await, NEW);
    // More invented denials than an enclave could ever keep.
    let invented: Vec<Sha256Digest> =
        (0..4_352_u32).map(|number| Sha256Digest::of(&[&number.to_be_bytes()])).collect();
    let request = room.control.ask().await;
    for some in invented.chunks(256) {
        let lease = room.authorities.hostile_lease(HOSTILE, &request, 1, 60, some);
        assert_eq!(room.refused(ControlKind::LEASE, &lease).await, "denial-missing");
    }
    let forged = room.authorities.forged_denial(HOSTILE, Target::Model("demo".parse().unwrap()));
    assert_eq!(room.refused(ControlKind::DENIAL, &forged).await, "threshold");
    assert_eq!(room.asked().await, "served");
    // The others go on, for the same nonce, as if nothing had come.
    for issuer in [1, 2] {
        let lease = room.authorities.lease_of(issuer, &request, &release, &[]);
        let answer = if issuer == 1 { MORE } else { NEW };
        assert_eq!(room.hand(ControlKind::LEASE, &lease).await, answer);
    }
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_issuer_cannot_shorten_what_the_others_give() {
    let (mut room, release) = released().await;
    let request = room.control.ask().await;
    let short = room.authorities.hostile_lease(HOSTILE, &request, 1, 1, &[]);
    assert_eq!(room.hand(ControlKind::LEASE, &short).await, MORE);
    for issuer in [1, 2] {
        let lease = room.authorities.lease_of(issuer, &request, &release, &[]);
        assert_eq!(room.hand(ControlKind::LEASE, &lease).await, NEW);
    }
    room.pass_time(cleanroom_tests::authorities::LEASE_MS - 20_000);
    assert_eq!(room.asked().await, "served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_withholds_a_denial_is_left_without_a_lease() {
    let (mut room, release) = released().await;
    let (denial, _) = room.authorities.deny_model();
    let refused = ControlAnswer::Refused("denial-missing".to_owned());
    assert_eq!(honest(&mut room, &release, &[&denial]).await, refused);
    assert_eq!(room.asked().await, "no-lease");
    let _ = room.hand(ControlKind::DENIAL, &denial).await;
    assert_eq!(honest(&mut room, &release, &[&denial]).await, NEW);
    assert_eq!(room.asked().await, "model-denied");
}
