//! What a host has of a model's weights: nothing of sealed ones, on its disk, in its memory, and in what crosses to the enclave.
//!
//! `cleanroom-authority search` looks for pieces of the weights. That it finds what is there is shown with the same clean room and
//! the same model, not sealed.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "../../enclave/engine/tests/support/gguf_writer.rs"]
mod gguf_writer;
#[path = "../../enclave/engine/tests/support/split_model.rs"]
mod split_model;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cleanroom_partner::channel::RelyingParty;
use cleanroom_partner::session::Sessions;
use cleanroom_tests::ceremony::{Ceremony, Terms};
use cleanroom_tests::platform::model_id;
use cleanroom_tests::processes::{Running, output};

/// Longer than anything here takes, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often the model's file has the demo model: so often that it can be seen while it crosses.
const COPIES: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn a_host_of_sealed_weights_has_nothing_of_them() {
    let mut room = Room::new(Some(2));
    let mut host = room.start();
    (0..2).for_each(|index| room.ceremony.serve_broker(index));
    let address = host.wait_for("ready: partners connect to ");
    let begun = Instant::now();
    // While the weights cross, and when the model serves.
    while !room.serves(&address).await {
        assert!(!room.finds_in_memory(&host), "the host has weights while they cross");
        assert!(begun.elapsed() < PATIENCE, "the sealed model does not serve");
    }
    assert!(!room.finds_in_memory(&host));
    assert!(!room.finds_in(room.ceremony.folder()));
    // They have crossed.
    let length = std::fs::metadata(room.ceremony.path("model.sealed")).unwrap().len();
    assert!(room.crossed() > length, "{} bytes crossed, the sealed model has {length}", room.crossed());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parts_of_a_split_model_serve_out_of_one_sealed_file() {
    let folder = tempfile::tempdir().unwrap();
    let model = std::fs::read(Terms::default().model).unwrap();
    for (index, part) in split_model::parts(&model).iter().enumerate() {
        let name = format!("demo-{:05}-of-00002.gguf", index + 1);
        std::fs::write(folder.path().join(name), part.bytes()).unwrap();
    }
    let model = folder.path().to_owned();
    let mut room = Room::of(folder, Terms { sealed: Some(2), model, ..Terms::default() });
    let mut host = room.start();
    (0..2).for_each(|index| room.ceremony.serve_broker(index));
    let address = host.wait_for("ready: partners connect to ");
    let begun = Instant::now();
    while !room.serves(&address).await {
        assert!(begun.elapsed() < PATIENCE, "the sealed parts do not serve");
    }
}

/// The counter-proof of the search.
#[tokio::test(flavor = "multi_thread")]
async fn the_same_search_finds_weights_that_are_not_sealed() {
    let room = Room::new(None);
    let begun = Instant::now();
    // The host has those in memory that cross at the moment. A look that comes too late is repeated with another start.
    let (mut host, mut found) = (room.start(), false);
    while !found {
        assert!(begun.elapsed() < PATIENCE, "the search does not find weights in memory");
        let address = host.wait_for("ready: partners connect to ");
        let mut serves = false;
        while !found && !serves {
            found = room.finds_in_memory(&host);
            serves = room.serves(&address).await;
        }
        if !found {
            drop(host);
            host = room.start();
        }
    }
    assert!(room.finds_in(&room.ceremony.path("host/traffic")), "the search finds what crosses");
    assert!(room.finds_in(room.folder.path()), "the search finds what is on a disk");
}

/// A clean room whose host copies what crosses, with a long model.
struct Room {
    ceremony: Ceremony,
    /// The owner's, with the model as it is.
    folder: tempfile::TempDir,
}

impl Room {
    fn new(sealed: Option<u32>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = folder.path().join("model.gguf");
        // What follows the last tensor belongs to the file, and the engine does not read it.
        std::fs::write(&model, std::fs::read(Terms::default().model).unwrap().repeat(COPIES)).unwrap();
        Self::of(folder, Terms { sealed, model, ..Terms::default() })
    }

    /// Of a model that lies in the owner's `folder`.
    fn of(folder: tempfile::TempDir, terms: Terms) -> Self {
        let mut ceremony = Ceremony::new(terms);
        ceremony.serve(0);
        Self { ceremony, folder }
    }

    fn start(&self) -> Running {
        self.ceremony.starting_host_with(true, &["--capture", "host/traffic"])
    }

    /// Whether an enclave at `address` proves that it has the model, and may serve.
    async fn serves(&self, address: &str) -> bool {
        let policy = self.ceremony.policy("roots/1.json");
        let party = RelyingParty::new(self.ceremony.identity(), policy, model_id()).unwrap();
        Sessions::new(party, address.parse().unwrap()).get().await.is_ok()
    }

    fn finds_in_memory(&self, process: &Running) -> bool {
        self.finds(&["--process", &process.id().to_string()])
    }

    fn finds_in(&self, place: &Path) -> bool {
        self.finds(&[place.to_str().unwrap()])
    }

    fn finds(&self, places: &[&str]) -> bool {
        let model = self.model();
        let mut arguments = vec!["search", model.to_str().unwrap()];
        arguments.extend(places);
        let output = output("cleanroom-authority", self.ceremony.folder(), &arguments);
        let status = output.status.code();
        assert!(matches!(status, Some(0 | 1)), "{output:?}");
        status == Some(1)
    }

    fn model(&self) -> PathBuf {
        self.folder.path().join("model.gguf")
    }

    /// How many bytes crossed to the enclave.
    fn crossed(&self) -> u64 {
        let files = std::fs::read_dir(self.ceremony.path("host/traffic")).unwrap();
        files.map(|file| file.unwrap().metadata().unwrap().len()).sum()
    }
}
