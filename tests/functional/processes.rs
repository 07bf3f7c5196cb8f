//! The programs together, as processes on one machine: host, enclave, authority, partner.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use cleanroom_tests::client::{json, question, send};
use cleanroom_tests::official::{self, Package};
use cleanroom_tests::processes::{Running, file, only_child_of, output, program, succeed};
use cleanroom_tests::site::{Prepared, Site};
use cleanroom_tests::wait;
use http::StatusCode;
use http_body_util::BodyExt as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;

/// A host that serves one partner; the rest of the configuration is in `limits`.
fn start_with(limits: &str, further: &[String]) -> Site {
    logged(limits, further, |_| Stdio::inherit())
}

fn start() -> Site {
    start_with("sequences = 4\nqueued = 8\n", &[])
}

/// The same; the host's log goes where `log` says, for the folder of the site.
fn logged(limits: &str, further: &[String], log: impl FnOnce(&Path) -> Stdio) -> Site {
    let prepared = Prepared::new();
    let partner = prepared.key_sha256();
    let config = format!("version = 1\nmodel = \"demo\"\npartners = [\"{partner}\"]\n[limits]\n{limits}");
    let log = log(prepared.path());
    prepared.serve(&config, further, log)
}

#[test]
fn the_partner_proves_uses_and_after_a_swap_refuses() {
    let site = start();
    let (path, address) = (site.path(), site.address.as_str());
    let verify = ["verify", address, "--key", "partner.key", "--ear", "result.cmw.json", "--json"];
    let verdict = output("cleanroom", path, &verify);
    let result: (String, String, u8) =
        serde_json::from_slice(&std::fs::read(path.join("result.cmw.json")).unwrap()).unwrap();
    assert!(result.0.starts_with("application/eat+jwt;") && result.2 == 8, "{result:?}");
    assert_eq!(verdict.status.code(), Some(0), "{}", String::from_utf8_lossy(&verdict.stdout));
    let verdict: serde_json::Value = serde_json::from_slice(&verdict.stdout).unwrap();
    assert_eq!((&verdict["accepted"], &verdict["verdict"]["outcome"]), (&true.into(), &"pass".into()));
    assert_eq!(verdict["verdict"]["tier"], "development");

    let answer = succeed(
        "cleanroom",
        path,
        &["chat", address, "--key", "partner.key", "--prompt", "What is attestation?"],
    );
    assert!(answer.starts_with("Attestation proves which image"), "{answer}");

    // The official client, unmodified, through the proxy that a partner would start.
    let connect = ["connect", address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
    let mut proxy = Running::start("cleanroom", path, &connect);
    let base_url = proxy.wait_for("\"base_url\": \"");
    official::expect_passed(official::run(Package::OpenAi, base_url.trim_end_matches("\",")).unwrap());
    assert!(proxy.stop().success());

    // The host replaces the program by one that is a byte longer, and the enclave by a new one.
    let mut program = std::fs::read(path.join("enclave")).unwrap();
    program.push(0);
    std::fs::write(path.join("enclave.new"), program).unwrap();
    std::fs::rename(path.join("enclave.new"), path.join("enclave")).unwrap();
    let before = std::fs::read_to_string(path.join("state/measurements.json")).unwrap();
    let enclave = Pid::from_raw(site.host.only_child().cast_signed()).unwrap();
    kill_process(enclave, Signal::KILL).unwrap();
    let chat = ["chat", address, "--key", "partner.key", "--prompt", "a secret"];
    // Until the new enclave listens, the host can only close the connection; that is no verdict.
    let refused = wait::found_blocking("the new enclave listens", || {
        Some(output("cleanroom", path, &chat)).filter(|refused| refused.status.code() != Some(4))
    });
    assert_ne!(std::fs::read_to_string(path.join("state/measurements.json")).unwrap(), before);
    let message = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("pcr0-mismatch") && message.contains("was not sent"), "{message}");
}

/// Prompts of many requests are prepared side by side: the worker has more threads at work than in any other
/// test, under its filter.
#[tokio::test]
async fn many_requests_at_once_are_answered_by_one_worker() {
    let site = start_with("sequences = 64\nqueued = 64\n", &[]);
    let worker = only_child_of(site.host.only_child()).unwrap();
    let connect = ["connect", &site.address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
    let mut proxy = Running::start("cleanroom", site.path(), &connect);
    let base_url = proxy.wait_for("\"base_url\": \"http://");
    let proxy_address: SocketAddr = base_url.split('/').next().unwrap().parse().unwrap();
    let mut requests = JoinSet::new();
    for _ in 0..48 {
        requests.spawn(async move {
            let question = question("What is attestation?", false);
            json(send(proxy_address, "POST", "/v1/chat/completions", &question).await).await
        });
    }
    for (status, answer) in requests.join_all().await {
        assert_eq!(status, StatusCode::OK, "{answer}");
        let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
        assert!(text.starts_with("Attestation proves which image"), "{text}");
    }
    assert_eq!(only_child_of(site.host.only_child()), Some(worker), "it is still the first one");
}

/// The log and the standard output of a program may be anywhere: on a full disk, or read by nobody. What the
/// program does must not depend on it.
#[tokio::test]
async fn the_proxy_serves_and_ends_in_order_when_nothing_that_it_writes_can_be_written() {
    let site = start();
    // Sessions end again and again, and each end is a line of the log.
    let policy = std::fs::read_to_string(site.path().join("trust.toml")).unwrap();
    let session = policy.lines().find(|line| line.starts_with("max_session = ")).unwrap();
    let policy = policy.replace(session, "max_session = \"1s\"");
    std::fs::write(site.path().join("trust.toml"), policy).unwrap();
    for closed in [false, true] {
        let sink = || {
            if closed {
                let (reader, writer) = std::io::pipe().unwrap();
                drop(reader);
                Stdio::from(writer)
            } else {
                Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap())
            }
        };
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let listen = free.to_string();
        let mut proxy = program("cleanroom", site.path());
        proxy.args(["connect", &site.address, "--key", "partner.key", "--listen", &listen]);
        let mut proxy = proxy.stdout(sink()).stderr(sink()).spawn().unwrap();
        let id = Pid::from_raw(proxy.id().cast_signed()).unwrap();
        while tokio::net::TcpStream::connect(free).await.is_err() {
            assert_eq!(proxy.try_wait().unwrap(), None, "closed: {closed}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for _ in 0..3 {
            let (status, answer) = json(send(free, "GET", "/v1/models", "").await).await;
            assert_eq!(status, StatusCode::OK, "closed: {closed}: {answer}");
            // A terminal that goes away does not end it.
            kill_process(id, Signal::HUP).unwrap();
            tokio::time::sleep(Duration::from_millis(1_100)).await;
        }
        kill_process(id, Signal::TERM).unwrap();
        let status = tokio::task::spawn_blocking(move || proxy.wait().unwrap()).await.unwrap();
        assert_eq!(status.code(), Some(0), "closed: {closed}");
    }
}

#[test]
fn a_hangup_has_the_proxy_read_its_policy_and_its_token_again() {
    let site = start();
    let [trust, token, log] = ["trust.toml", "token", "proxy.log"].map(|name| site.path().join(name));
    let write_token = |text: &str| {
        std::fs::write(&token, text).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    let [first, second] = ["the-first-of-two-tokens", "the-second-of-two-tokens"];
    write_token(first);
    let policy = std::fs::read_to_string(&trust).unwrap();
    let connect = ["connect", &site.address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
    let mut proxy = program("cleanroom", site.path());
    proxy.args(connect).args(["--token-file", "token"]).stdout(Stdio::piped());
    let mut proxy = Running::of(proxy.stderr(std::fs::File::create(&log).unwrap()).spawn().unwrap());
    let listen = proxy.wait_for("\"listen\": \"");
    let listen = listen.split('"').next().unwrap();
    let ask = |token: &str| {
        let mut stream = std::net::TcpStream::connect(listen).unwrap();
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: {listen}\r\nAuthorization: Bearer {token}\r\n");
        stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let id = Pid::from_raw(proxy.id().cast_signed()).unwrap();
    let mut lines = 0;
    // What the log says about the files after a hangup.
    let mut hang_up = || {
        kill_process(id, Signal::HUP).unwrap();
        lines += 1;
        wait::found_blocking("the log says what was read", || {
            let text = std::fs::read_to_string(&log).unwrap();
            let line = text.lines().filter(|line| line.contains("read again after SIGHUP")).nth(lines - 1);
            line.filter(|_| text.ends_with('\n')).map(str::to_owned)
        })
    };
    assert!(ask(first).starts_with("HTTP/1.1 200"));
    let line = hang_up();
    assert!(line.contains("policy: as before. Token: as before"), "{line}");

    // What cannot be used changes nothing.
    std::fs::write(&trust, "nonsense").unwrap();
    write_token("short");
    let line = hang_up();
    assert!(line.contains("policy: not taken") && line.contains("Token: not taken"), "{line}");
    assert!(line.contains("trust.toml is not a valid policy"), "{line}");
    assert!(ask(first).starts_with("HTTP/1.1 200"));

    // Under a policy with another image the same clean room gets nothing.
    let (before, register) = policy.split_once("pcr0 = \"").unwrap();
    let other = format!("{before}pcr0 = \"{}{}", "0".repeat(8), &register[8..]);
    std::fs::write(&trust, other).unwrap();
    write_token(first);
    let line = hang_up();
    assert!(line.contains("policy: another one"), "{line}");
    let answer = ask(first);
    assert!(!answer.starts_with("HTTP/1.1 200") && answer.contains("pcr0-mismatch"), "{answer}");

    std::fs::write(&trust, &policy).unwrap();
    write_token(second);
    let line = hang_up();
    assert!(line.contains("policy: another one") && line.contains("Token: another one"), "{line}");
    assert!(ask(second).starts_with("HTTP/1.1 200"));
    assert!(ask(first).starts_with("HTTP/1.1 401"));
    assert!(proxy.stop().success());
}

/// A line of `/proc/PROCESS/status`.
fn status(process: u32, name: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap().trim().to_owned()
}

/// What the descriptors of a process are.
fn descriptors(process: u32) -> Vec<String> {
    let folder = std::fs::read_dir(format!("/proc/{process}/fd")).unwrap();
    let links = folder.map(|entry| std::fs::read_link(entry.unwrap().path()).unwrap());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

#[test]
fn the_worker_is_confined_and_its_end_is_the_enclaves() {
    let site = start();
    let (path, address) = (site.path(), site.address.as_str());
    // It has served a whole session, streamed, so it runs under its filter.
    let chat = ["chat", address, "--key", "partner.key", "--prompt", "What is attestation?"];
    let _ = succeed("cleanroom", path, &chat);
    let keeper = site.host.only_child();
    let worker = only_child_of(keeper).unwrap();
    // 2 is SECCOMP_MODE_FILTER.
    for (name, expected) in [
        ("Seccomp", "2"),
        ("NoNewPrivs", "1"),
        ("CapEff", "0000000000000000"),
        ("CapPrm", "0000000000000000"),
    ] {
        assert_eq!(status(worker, name), expected, "{name}");
    }
    for task in std::fs::read_dir(format!("/proc/{worker}/task")).unwrap() {
        let status = std::fs::read_to_string(task.unwrap().path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2\n"), "every thread: {status}");
    }
    // Without these the C library opens files once there are many threads, or once much memory is given back;
    // the test of the filter does both.
    let environment = std::fs::read(format!("/proc/{worker}/environ")).unwrap();
    assert_eq!(environment, b"MALLOC_ARENA_MAX=16\0MALLOC_TRIM_THRESHOLD_=1099511627776\0");
    // The security module is the keeper's standard input.
    let module = std::fs::read_link(format!("/proc/{keeper}/fd/0")).unwrap();
    let module = module.to_string_lossy().into_owned();
    assert!(module.starts_with("socket:") && descriptors(keeper).contains(&module));
    assert!(!descriptors(worker).contains(&module), "{:?}", descriptors(worker));

    // The worker ends: so does the enclave, with the reason, and the host starts a new one.
    let end = |process: u32, signal| {
        kill_process(Pid::from_raw(process.cast_signed()).unwrap(), signal).unwrap();
    };
    let console = || std::fs::read_to_string(path.join("state/console.log")).unwrap_or_default();
    end(worker, Signal::SYS);
    wait::until_blocking("the halt is on the console", || {
        console().contains("halted: the worker made a forbidden system call\n")
    });
    let next = wait::found_blocking("there is another worker", || {
        let keeper = only_child_of(site.host.id()).filter(|next| *next != keeper)?;
        Some((keeper, only_child_of(keeper)?))
    });
    end(next.1, Signal::KILL);
    wait::until_blocking("the halt is on the console", || {
        console().contains("halted: the worker was ended by signal 9\n")
    });
    // The keeper ends: so does its worker.
    let last = wait::found_blocking("there is another worker", || {
        let keeper = only_child_of(site.host.id()).filter(|last| *last != next.0)?;
        Some((keeper, only_child_of(keeper)?))
    });
    end(last.0, Signal::KILL);
    wait::until_blocking("the worker has ended", || !Path::new(&format!("/proc/{}", last.1)).exists());
}

#[test]
fn a_release_build_of_the_enclave_has_no_software_security_module() {
    // The names of the simulated tier's contract are in its program and in no other.
    let contains = |program: &str, needle: &str| {
        std::fs::read(file(program)).unwrap().windows(needle.len()).any(|window| window == needle.as_bytes())
    };
    for needle in ["CLEANROOM_LISTEN", "software_nsm", "DevelopmentRoot"] {
        assert!(!contains("cleanroom-enclave", needle), "{needle}");
    }
    assert!(contains("cleanroom-enclave-simulated", "CLEANROOM_LISTEN"));
    assert!(contains("cleanroom-enclave", "/dev/nsm"));
    assert!(!contains("cleanroom-enclave-simulated", "DevelopmentRoot"), "the module itself is the host's");
}

#[test]
fn without_its_platform_an_enclave_halts_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    if !Path::new("/dev/nsm").exists() {
        let halted = output("cleanroom-enclave", folder.path(), &[]);
        assert_eq!(halted.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&halted.stderr).contains("/dev/nsm"));
    }
    let halted = output("cleanroom-enclave-simulated", folder.path(), &[]);
    assert_eq!(halted.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&halted.stderr).contains("CLEANROOM_LISTEN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_logs_and_the_partner_keeps_is_audited_and_one_changed_byte_is_found() {
    let mut site = start();
    let path = site.path().to_owned();
    let connect = ["connect", &site.address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
    let connect = [&connect[..], &["--receipts", "receipts"]].concat();
    let mut proxy = Running::start("cleanroom", &path, &connect);
    let listen: SocketAddr = proxy.wait_for("\"listen\": \"").trim_end_matches("\",").parse().unwrap();
    for stream in [false, true] {
        let response =
            send(listen, "POST", "/v1/chat/completions", &question("What is attestation?", stream)).await;
        assert_eq!(response.status(), StatusCode::OK);
        response.into_body().collect().await.unwrap();
    }
    proxy.stop();
    // The enclave drains, and the host fetches the end of its log.
    site.host.stop();

    let listed = succeed("cleanroom", &path, &["receipts", "list"]);
    assert_eq!(listed.matches(" finished, ").count(), 2, "{listed}");
    let _ = succeed("cleanroom", &path, &["receipts", "verify"]);
    let id = listed.split_whitespace().find(|word| word.starts_with("chatcmpl-")).unwrap();
    let _ = succeed("cleanroom", &path, &["receipts", "prove", id, "--log", "log", "--cose", "receipt.cose"]);
    // Other people's readers are in bench/readers. Here: three files, of which the first is a tagged COSE_Sign1.
    let cose = std::fs::read(path.join("receipt.cose")).unwrap();
    assert_eq!(&cose[..2], [0xd2, 0x84]);
    let entry = std::fs::read_to_string(path.join("receipt.cose.entry")).unwrap();
    assert!(entry.starts_with("{\"kind\":\"receipt\",\"sha256\":\""), "{entry}");
    assert_eq!(std::fs::read(path.join("receipt.cose.key")).unwrap().len(), 44);
    let audit = ["audit", "log", "--receipts", "receipts", "--state", "audit.json", "--json"];
    let report: serde_json::Value = serde_json::from_str(&succeed("cleanroom", &path, &audit)).unwrap();
    let boot = &report["boots"][0];
    assert_eq!((&boot["status"], &boot["receipts_found"]), (&"ended".into(), &2.into()), "{report}");
    assert_eq!(
        (&boot["entries"]["receipt"], &boot["entries"]["shutdown"]),
        (&2.into(), &1.into()),
        "{report}"
    );
    assert!(boot["image"].is_string(), "the boot record's evidence is of the policy's image: {report}");

    // The same over the network.
    let folder = path.join("log");
    let files = axum::Router::new().fallback(move |uri: http::Uri| {
        let file = std::fs::read(folder.join(uri.path().trim_start_matches('/')));
        std::future::ready(file.map_err(|_| StatusCode::NOT_FOUND))
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let store = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, files).await });
    let (at, arguments) =
        (path.clone(), vec!["audit".to_owned(), store, "--receipts".to_owned(), "receipts".to_owned()]);
    let audited =
        tokio::task::spawn_blocking(move || program("cleanroom", &at).args(arguments).status().unwrap());
    assert_eq!(audited.await.unwrap().code(), Some(0));

    // One byte.
    let boot = boot["boot"].as_str().unwrap();
    let bundles = std::fs::read_dir(path.join(format!("log/{boot}/tile/entries/000.p"))).unwrap();
    let newest = bundles
        .map(|entry| entry.unwrap().path())
        .max_by_key(|path| path.file_name().unwrap().to_str().unwrap().parse::<u32>().unwrap());
    let newest = newest.unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let digit = bytes.len() - 100;
    bytes[digit] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let found = output("cleanroom", &path, &audit);
    assert_eq!(found.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    assert!(
        report["problems"].as_array().unwrap().iter().any(|problem| problem["code"] == "entry-changed"),
        "{report}"
    );
    assert!(std::fs::read_to_string(path.join("audit.json")).unwrap().contains("entry-changed"));
}

/// Every file under a folder.
fn files_under(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let entries = entries.filter(|path| path.is_dir() || path.is_file());
    entries.flat_map(|path| if path.is_dir() { files_under(&path) } else { vec![path] }).collect()
}

/// What the host has, what an auditor gets and what a partner keeps of an exchange have nothing of its texts.
#[tokio::test(flavor = "multi_thread")]
async fn no_text_of_a_run_is_in_receipts_tiles_metrics_logs_or_the_page() {
    let metrics = ["--metrics", "unix:metrics.sock"].map(str::to_owned);
    let to_file =
        |name: &'static str| move |path: &Path| std::fs::File::create(path.join(name)).unwrap().into();
    let mut site = logged("sequences = 4\nqueued = 8\n", &metrics, to_file("host.log"));
    let path = site.path().to_owned();
    let mut proxy = program("cleanroom", &path);
    proxy.args(["connect", &site.address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"]);
    proxy.args(["--receipts", "receipts"]).env("CLEANROOM_LOG", "debug").stdout(Stdio::piped());
    let mut proxy = Running::of(proxy.stderr(to_file("proxy.log")(&path)).spawn().unwrap());
    let listen: SocketAddr = proxy.wait_for("\"listen\": \"").trim_end_matches("\",").parse().unwrap();
    let secret = "What is attestation, asks the substation Kerkrade-4711?";
    let (status, answer) =
        json(send(listen, "POST", "/v1/chat/completions", &question(secret, false)).await).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answer = answer["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    let streamed = send(listen, "POST", "/v1/chat/completions", &question(secret, true)).await;
    streamed.into_body().collect().await.unwrap();
    let mut report = std::os::unix::net::UnixStream::connect(path.join("metrics.sock")).unwrap();
    report.write_all(b"GET /metrics HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n").unwrap();
    let mut metrics = Vec::new();
    report.read_to_end(&mut metrics).unwrap();
    assert!(metrics.windows(18).any(|window| window == b"cleanroom_ready 1\n"), "the metrics are there");
    std::fs::write(path.join("metrics.txt"), metrics).unwrap();
    proxy.stop();
    site.host.stop();
    let audit = ["audit", "log", "--receipts", "receipts", "--html", "audit.html", "--json"];
    std::fs::write(path.join("audit.json"), succeed("cleanroom", &path, &audit)).unwrap();

    let words: Vec<&str> = answer.split(' ').collect();
    let pieces = words.windows(4).map(|words| words.join(" "));
    let pieces: Vec<String> = pieces.chain([secret.to_owned(), "Kerkrade-4711".to_owned()]).collect();
    assert!(pieces.len() > 8, "{answer}");
    let files = files_under(&path);
    for part in [
        "receipts/",
        "log/",
        "state/console.log",
        "host.log",
        "proxy.log",
        "metrics.txt",
        "audit.html",
        "audit.json",
    ] {
        let seen =
            files.iter().filter(|file| file.strip_prefix(&path).unwrap().to_str().unwrap().starts_with(part));
        assert!(seen.map(|file| std::fs::metadata(file).unwrap().len()).sum::<u64>() > 0, "{part} is empty");
    }
    for file in files {
        let bytes = std::fs::read(&file).unwrap();
        for piece in &pieces {
            let found = memchr::memmem::find(&bytes, piece.as_bytes());
            assert_eq!(found, None, "{piece:?} is in {}", file.display());
        }
    }
}

/// The enclave is killed while it writes an answer: what the host had stored of its log before is there, and the audit says that
/// this log has no end.
#[tokio::test(flavor = "multi_thread")]
async fn an_enclave_that_is_killed_in_a_stream_loses_nothing_that_was_stored() {
    // A stream that lasts: at most 512 bytes leave every 300 ms.
    let slow = "sequences = 4\nqueued = 8\n[traffic]\nstep = 512\ncadence = \"300ms\"\n";
    let mut site = start_with(slow, &[]);
    let path = site.path().to_owned();
    let connect = ["connect", &site.address, "--key", "partner.key", "--listen", "127.0.0.1:0", "--json"];
    let connect = [&connect[..], &["--receipts", "receipts"]].concat();
    let mut proxy = Running::start("cleanroom", &path, &connect);
    let listen: SocketAddr = proxy.wait_for("\"listen\": \"").trim_end_matches("\",").parse().unwrap();
    let (status, answer) =
        json(send(listen, "POST", "/v1/chat/completions", &question("What is attestation?", false)).await)
            .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let id = answer["id"].as_str().unwrap();
    let prove = ["receipts", "prove", id, "--log", "log"];
    wait::until("the host has stored the receipt's entry", || {
        output("cleanroom", &path, &prove).status.success()
    })
    .await;

    let stream = send(listen, "POST", "/v1/chat/completions", &question("Tell me a story.", true)).await;
    assert_eq!(stream.status(), StatusCode::OK);
    let mut body = stream.into_body();
    body.frame().await.unwrap().unwrap();
    let enclave = Pid::from_raw(site.host.only_child().cast_signed()).unwrap();
    kill_process(enclave, Signal::KILL).unwrap();
    let mut rest = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        rest.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
    }
    assert_eq!(memchr::memmem::find(&rest, b"[DONE]"), None, "a cut answer has no end");
    proxy.stop();
    site.host.stop();

    let audit = ["audit", "log", "--receipts", "receipts", "--json"];
    let report: serde_json::Value = serde_json::from_str(&succeed("cleanroom", &path, &audit)).unwrap();
    let boots = report["boots"].as_array().unwrap();
    let killed = boots.iter().find(|boot| boot["receipts_found"] == 1);
    assert_eq!(killed.map(|boot| &boot["status"]), Some(&"open".into()), "{report}");
    let _ = succeed("cleanroom", &path, &prove);
}

/// A witness as a process, at an address that the host was told before.
fn witness(path: &Path, name: &str, address: SocketAddr) -> Running {
    let arguments = [
        "witness",
        "serve",
        "--key",
        &format!("{name}.pem"),
        "--name",
        &format!("{name}.example"),
        "--policy",
        "trust.toml",
        "--state",
        name,
        "--listen",
        &address.to_string(),
    ];
    let mut witness = Running::start("cleanroom-authority", path, &arguments);
    witness.wait_for("listening on ");
    witness
}

#[tokio::test(flavor = "multi_thread")]
async fn witnesses_cosign_the_log_and_keep_a_host_from_hiding_a_boot_or_an_entry() {
    // Ports that are bound and on which nobody listens yet.
    let bound = ["one", "two", "three"].map(|name| {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        (name, socket.local_addr().unwrap(), socket)
    });
    let urls = bound.iter().flat_map(|(_, address, _)| ["--witness".to_owned(), format!("http://{address}")]);
    let mut site = start_with("sequences = 4\nqueued = 8\n", &urls.collect::<Vec<_>>());
    let path = site.path().to_owned();
    let keys = ["one", "two", "three"].map(|name| {
        let file = format!("{name}.pem");
        let _ = succeed("cleanroom-authority", &path, &["key", "new", &file]);
        let identity = ["witness", "key", "--key", &file, "--name", &format!("{name}.example")];
        succeed("cleanroom-authority", &path, &identity).trim().to_owned()
    });
    // The third one never comes.
    let _witnesses = [&bound[0], &bound[1]].map(|(name, address, _)| witness(&path, name, *address));
    let chat = ["chat", &site.address, "--key", "partner.key", "--prompt", "What is attestation?"];
    let _ = succeed("cleanroom", &path, &chat);
    site.host.stop();

    let list = format!("http://{}", bound[0].1);
    let audit = |log: &str, needed: &str| {
        let mut arguments = vec!["audit", log, "--policy", "trust.toml", "--json", "--witness-list", &list];
        keys.iter().for_each(|key| arguments.extend(["--witness", key]));
        arguments.extend(["--witnesses-needed", needed]);
        let output = output("cleanroom", &path, &arguments);
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let problems = report["problems"].as_array().unwrap().iter();
        let codes: Vec<String> =
            problems.map(|problem| problem["code"].as_str().unwrap().to_owned()).collect();
        (output.status.code(), codes, report)
    };
    let (status, codes, report) = audit("log", "2");
    assert_eq!((status, codes.len()), (Some(0), 0), "{report}");
    let boot = &report["boots"][0];
    assert_eq!(boot["status"], "ended", "{report}");
    assert_eq!(boot["cosigned"]["size"], boot["size"], "the end of the log is cosigned: {report}");
    let by = boot["cosigned"]["by"].as_object().unwrap();
    assert_eq!(by.keys().collect::<Vec<_>>(), ["one.example", "two.example"]);
    let (status, codes, _) = audit("log", "3");
    assert_eq!((status, codes), (Some(1), vec!["witness-too-few".to_owned()]));

    // The host hides the boot.
    std::fs::create_dir(path.join("empty")).unwrap();
    let (status, codes, _) = audit("empty", "2");
    assert_eq!((status, codes), (Some(1), vec!["boot-hidden".to_owned()]));
    // The host shows no cosignatures.
    let name = boot["boot"].as_str().unwrap();
    std::fs::rename(path.join(format!("log/{name}/witnessed")), path.join("witnessed")).unwrap();
    let (status, codes, _) = audit("log", "2");
    assert_eq!((status, codes), (Some(1), vec!["witness-missing".to_owned()]));
}
