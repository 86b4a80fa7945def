//! Served programs, asked directly, through hops and channels, and through a running node.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::{Home, eventually, text};

const ANY: &str = "tcp:127.0.0.1:0";

/// The words of the line that `serve` prints for another terminal.
fn ask_line(said: &serde_json::Value) -> Vec<String> {
    let line = text(&said["ask"]);
    let (before, rest) = line.split_once('\'').unwrap();
    let (route, after) = rest.split_once('\'').unwrap();
    let words = before.split_ascii_whitespace().skip(1).map(str::to_owned);
    words.chain([route.to_owned()]).chain(after.split_ascii_whitespace().map(str::to_owned)).collect()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn the_printed_line_asks_the_service_from_another_terminal() {
    let (here, there) = (Home::new(), Home::new());
    let words = ["serve", "upper", "--upper", "--listen", ANY, "--channels", "bank", "--trust-any"];
    let (service, said) = here.start(&words);
    let line = ask_line(&said);
    assert_eq!(there.run(&strs(&line)).ok(), "HELLO");
    assert_eq!(there.run_with_input(&strs(&line[..line.len() - 1]), b"by pipe\n").ok(), "BY PIPE\n");
    // Not without a channel, and not to somebody else.
    let route = format!("{} => upper", text(&said["endpoint"]));
    there.run(&["ask", &route, "x", "--plain", "--deadline", "500ms"]).fails("E0404", 75);
    let stranger = format!("I{}", "7".repeat(64));
    let route = format!("{} => bank => upper", text(&said["endpoint"]));
    let done = there.run(&["ask", &route, "x", "--peer", &stranger, "--deadline", "2s"]);
    assert!([69, 75].contains(&done.code), "{done:?}");
    service.signal("TERM");
    let (status, talk) = service.end();
    assert!(
        status.success() && talk.contains("`upper` stopped: 2 answered, 0 failed, 0 abandoned"),
        "{talk}"
    );
}

#[test]
fn a_service_is_asked_and_sent_to_over_udp_and_through_a_hop_of_both_kinds() {
    let (here, there) = (Home::new(), Home::new());
    let words = ["serve", "upper", "--upper", "--listen", "udp:127.0.0.1:0", "--trust-any", "--plain"];
    let (service, said) = here.start(&words);
    let endpoint = text(&said["endpoint"]);
    assert!(endpoint.starts_with("udp:127.0.0.1:"), "{endpoint}");
    assert_eq!(there.run(&strs(&ask_line(&said))).ok(), "HELLO");
    assert_eq!(there.run(&["ask", &format!("{endpoint} => upper"), "x", "--plain"]).ok(), "X");
    there
        .run(&["send", &format!("{endpoint} => secure => upper"), "y", "--peer", text(&said["identifier"])])
        .ok();
    let hop = ["node", "start", "relay", "--listen", ANY, "--hop", "hop", "--allow", endpoint];
    let (_hop, relay) = there.start(&hop);
    let route = format!("{} => hop => {endpoint} => secure => upper", text(&relay["listeners"][0]));
    assert_eq!(there.run(&["ask", &route, "z", "--peer", text(&said["identifier"])]).ok(), "Z");
    // A message that no datagrams carry is refused here, and says so.
    let large = "x".repeat(20_000);
    let done = there.run(&["ask", &format!("{endpoint} => upper"), &large, "--plain"]);
    assert!(done.code != 0 && done.stderr.contains("too"), "{done:?}");
    service.signal("TERM");
    let (status, talk) = service.end();
    assert!(status.success() && talk.contains("4 answered"), "{talk}");
}

#[test]
fn only_trusted_peers_may_ask() {
    let (here, there) = (Home::new(), Home::new());
    let friend = there.run(&["identity", "create", "friend"]).ok();
    here.run(&["peer", "add", "friend", friend.trim()]).ok();
    let words = ["serve", "echo", "--echo", "--listen", ANY, "--trust", "friend"];
    let (_service, said) = here.start(&words);
    let line = ask_line(&said);
    let named = [&strs(&line)[..], &["--identity", "friend"]].concat();
    assert_eq!(there.run(&named).ok(), "hello");
    let unnamed = [&strs(&line)[..], &["--deadline", "2s"]].concat();
    let done = there.run(&unnamed);
    assert!([69, 75].contains(&done.code), "{done:?}");
}

#[test]
fn a_pre_shared_key_comes_from_a_private_file() {
    let (here, there) = (Home::new(), Home::new());
    let ours = here.file("psk", &"5a".repeat(32));
    let words = ["serve", "echo", "--echo", "--listen", ANY, "--trust-any", "--psk-file", &ours];
    let open_to_others = here.run(&words);
    assert!(open_to_others.code != 0 && open_to_others.stderr.contains("others than its owner"));
    std::fs::set_permissions(&ours, std::fs::Permissions::from_mode(0o600)).unwrap();
    let (_service, said) = here.start(&words);
    let line = ask_line(&said);
    let with = |psk: &str| there.run(&[&strs(&line)[..], &["--psk-file", psk, "--deadline", "5s"]].concat());
    assert_eq!(with(&ours).ok(), "hello");
    let without = there.run(&[&strs(&line)[..], &["--deadline", "1s"]].concat());
    without.fails("E0404", 75);
}

#[test]
fn whoever_has_an_introduction_needs_two_messages() {
    let (here, there) = (Home::new(), Home::new());
    here.run(&["identity", "create", "echo"]).ok();
    let introduction = there.file("echo.intro", &here.run(&["identity", "introduce", "echo"]).ok());
    let words = ["serve", "echo", "--echo", "--listen", ANY, "--trust-any", "--handshake", "hybrid-ik"];
    let (_service, said) = here.start(&words);
    let line = ask_line(&said);
    let known = ["--handshake", "hybrid-ik", "--introduction", &introduction];
    assert_eq!(there.run(&[&strs(&line)[..], &known].concat()).ok(), "hello");
    let done = there.run(&[&strs(&line)[..], &known[..2]].concat());
    assert_ne!(done.code, 0, "{done:?}");
}

#[test]
fn a_lost_hop_is_a_typed_error_in_time_and_its_return_heals() {
    let (service_home, hop_home, asker) = (Home::new(), Home::new(), Home::new());
    let words = ["serve", "upper", "--upper", "--listen", ANY, "--channels", "bank", "--trust-any"];
    let (_service, said) = service_home.start(&words);
    let service_at = text(&said["endpoint"]);
    let hop_words = ["node", "start", "relay", "--hop", "hop", "--allow", service_at, "--listen"];
    let (hop, hop_said) = hop_home.start(&[&hop_words[..], &[ANY]].concat());
    let hop_at = text(&hop_said["listeners"][0]).to_owned();
    let route = format!("{hop_at} => hop => {service_at} => bank => upper");
    let ask = ["ask", &route, "through", "--peer", text(&said["identifier"]), "--deadline", "5s"];
    assert_eq!(asker.run(&ask).ok(), "THROUGH");
    assert_eq!(asker.run(&ask).ok(), "THROUGH");

    hop.signal("KILL");
    hop.end();
    let quick = [&ask[..ask.len() - 1], &["1s"]].concat();
    let done = asker.run(&quick);
    assert_eq!(done.code, 75, "{done:?}");
    assert!(done.stderr.contains("error[E040"), "{done:?}");

    let (_hop, _) = hop_home.start(&[&hop_words[..], &[&hop_at]].concat());
    assert_eq!(asker.run(&ask).ok(), "THROUGH");
}

#[test]
fn a_program_answers_each_message_and_its_failure_is_told() {
    let home = Home::new();
    let script = home.file("program.sh", "read word; echo \"got $word $1\"; test \"$word\" != bad\n");
    let words = ["serve", "prog", "--exec", "--listen", ANY, "--trust-any", "--plain", "-o", "json"];
    let mut command = home.command(&[&words[..], &["--", "sh", &script, "a b"]].concat());
    let (service, said) = home.start_command(&mut command);
    let route = format!("{} => prog", text(&said["endpoint"]));
    assert_eq!(home.run(&["ask", &route, "this", "--plain"]).ok(), "got this a b\n");
    home.run(&["ask", &route, "this", "--plain", "-o", "json"]).json();
    let line = ask_line(&said);
    let bad: Vec<&str> = strs(&line).into_iter().take(line.len() - 1).chain(["bad"]).collect();
    home.run(&bad).fails("E0405", 1);
    service.signal("TERM");
    let (_, talk) = service.end();
    assert!(talk.contains("2 answered, 1 failed"), "{talk}");
    assert!(talk.contains("ended with exit status: 1"), "the reason is in the log: {talk}");
}

#[test]
fn what_is_in_hand_at_sigterm_is_finished() {
    let home = Home::new();
    let mark = home.path().parent().unwrap().join("begun");
    let script = home.file("slow.sh", &format!("touch {}; sleep 1; cat\n", mark.display()));
    let words = ["serve", "slow", "--exec", "--listen", ANY, "--trust-any", "--plain", "-o", "json"];
    let (service, said) =
        home.start_command(&mut home.command(&[&words[..], &["--", "sh", &script]].concat()));
    let route = format!("{} => slow", text(&said["endpoint"]));
    let asking = std::thread::scope(|scope| {
        let asking = scope.spawn(|| home.run(&["ask", &route, "kept", "--plain"]));
        eventually("the program runs", || mark.exists().then_some(()));
        service.signal("TERM");
        asking.join().unwrap()
    });
    assert_eq!(asking.ok(), "kept");
    let (status, talk) = service.end();
    assert!(status.success() && talk.contains("1 answered, 0 failed, 0 abandoned"), "{talk}");
}

#[test]
fn jobs_run_at_the_same_time_but_no_more_than_allowed() {
    let home = Home::new();
    let dir = home.path().parent().unwrap().join("running");
    std::fs::create_dir(&dir).unwrap();
    // Each says how many ran when it began, after all that may have had the time to.
    let text_of = format!("touch {0}/$$; sleep 0.6; ls {0} | wc -l; rm {0}/$$\n", dir.display());
    let script = home.file("count.sh", &text_of);
    let words =
        ["serve", "count", "--exec", "--jobs", "2", "--listen", ANY, "--trust-any", "--plain", "-o", "json"];
    let (_service, said) =
        home.start_command(&mut home.command(&[&words[..], &["--", "sh", &script]].concat()));
    let route = format!("{} => count", text(&said["endpoint"]));
    let most = std::thread::scope(|scope| {
        let asks: Vec<_> =
            (0..4).map(|_| scope.spawn(|| home.run(&["ask", &route, "x", "--plain"]).ok())).collect();
        asks.into_iter().map(|ask| ask.join().unwrap().trim().parse::<u32>().unwrap()).max()
    });
    assert_eq!(most, Some(2));
}

#[test]
fn a_program_joins_a_running_node_and_is_asked_through_it() {
    let (home, there) = (Home::new(), Home::new());
    let (node, said) = home.start(&["node", "start", "edge", "--listen", ANY]);
    let at = text(&said["listeners"][0]).to_owned();
    let words = ["serve", "upper", "--upper", "--channels", "bank", "--trust-any"];
    let (service, served) = home.start(&words);
    assert_eq!(text(&served["endpoint"]), at);
    let line = ask_line(&served);
    assert_eq!(line[1], format!("{at} => upper => bank => upper"));
    assert_eq!(there.run(&strs(&line)).ok(), "HELLO");
    // From the same machine by name, through the control socket.
    let peer = text(&served["identifier"]);
    assert_eq!(home.run(&["ask", "upper => bank => upper", "by name", "--peer", peer]).ok(), "BY NAME");
    home.run(&["serve", "upper", "--echo", "--trust-any", "--identity", "other"]).fails("E0209", 73);
    let status = home.run(&["status", "-o", "json"]).json();
    assert_eq!(status["served"], serde_json::json!(["upper"]));

    service.signal("TERM");
    assert!(service.end().0.success());
    let status = home.run(&["status", "-o", "json"]).json();
    assert_eq!(status["served"], serde_json::json!([]), "it left when it ended");

    // One that is killed leaves its name to the next.
    let (killed, _) = home.start(&words);
    killed.signal("KILL");
    killed.end();
    let again = eventually("its name is free again", || {
        let status = home.run(&["status", "-o", "json"]).json();
        (status["served"] == serde_json::json!([])).then(|| home.start(&words))
    });
    assert_eq!(there.run(&strs(&line)).ok(), "HELLO");
    drop((again, node));
}

#[test]
fn a_sent_message_arrives() {
    let home = Home::new();
    let out = home.path().parent().unwrap().join("out");
    let script = home.file("keep.sh", &format!("cat > {0}.new; mv {0}.new {0}\n", out.display()));
    let words = ["serve", "keep", "--exec", "--listen", ANY, "--trust-any", "--plain", "-o", "json"];
    let (_service, said) =
        home.start_command(&mut home.command(&[&words[..], &["--", "sh", &script]].concat()));
    let route = format!("{} => keep", text(&said["endpoint"]));
    let kept = || eventually("the message arrives", || std::fs::read_to_string(&out).ok());
    home.run(&["send", &route, "plainly", "--plain"]).ok();
    assert_eq!(kept(), "plainly");
    std::fs::remove_file(&out).unwrap();
    let route = format!("{} => secure => keep", text(&said["endpoint"]));
    home.run_with_input(&["send", &route, "-", "--peer", text(&said["identifier"])], b"sealed").ok();
    assert_eq!(kept(), "sealed");
}
