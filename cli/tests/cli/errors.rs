//! Every error is a sentence with a code, a help line and an exit code of its own.

use crate::harness::Home;

#[test]
fn usage_errors_have_their_codes() {
    let home = Home::new();
    let route = "tcp:127.0.0.1:1 => upper";
    for (words, code, exit) in [
        (&["nod"][..], "E0101", 2),
        (&["node"], "E0101", 2),
        (&[], "E0101", 2),
        (&["ask"], "E0101", 2),
        (&["serve", "a"], "E0101", 2),
        (&["ask", "a", "b", "--deadline", "5h"], "E0101", 2),
        (&["ask", "a", "=", "upper"], "E0102", 2),
        (&["ask", "a =>", "x", "--plain"], "E0103", 2),
        (&["ask", "tcp:127.0.0.1:0 => a", "x", "--plain"], "E0103", 2),
        (&["ask", route, "x"], "E0104", 2),
        (&["send", route, "x"], "E0104", 2),
        (&["serve", "a", "--echo", "--listen", "tcp:127.0.0.1:0"], "E0105", 2),
        (&["node", "start", "a", "--channels", "c"], "E0105", 2),
        (&["node", "start", "a", "--trust-any"], "E0101", 2),
        (&["node", "start", "a", "--listen", "ftp:127.0.0.1:0"], "E0101", 2),
        (&["node", "start", "a", "--queue", "a b=x"], "E0101", 2),
        (&["node", "start", "a", "--queue", "q=/proc/self/nothing"], "E0501", 73),
        (&["queue", "new", "a b"], "E0101", 2),
        (&["queue", "purge", "nowhere"], "E0101", 2),
        (&["queue", "ls"], "E0207", 69),
        (&["explain", "E9999"], "E0107", 2),
        (&["node", "start", "../a"], "E0108", 2),
        (&["route", "add", "a b", "x"], "E0108", 2),
        (&["route", "rm", "missing"], "E0109", 1),
        (&["peer", "rm", "missing"], "E0109", 1),
        (&["ask", route, "--file", "missing", "--plain"], "E0110", 1),
        (&["serve", "a", "--exec", "--trust-any", "--", "no-such-program"], "E0112", 69),
        (&["identity", "show", "missing"], "E0201", 1),
        (&["identity", "rotate", "missing"], "E0201", 1),
        (&["ask", route, "x", "--peer", "nobody"], "E0203", 77),
        (&["status"], "E0207", 69),
        (&["node", "stop", "a"], "E0207", 69),
        (&["serve", "a", "--echo", "--trust-any"], "E0207", 69),
        (&["ask", "upper", "x", "--plain"], "E0207", 69),
        (&["node", "start", "a", "--listen", "tcp:192.0.2.1:1"], "E0301", 73),
        (&["ask", route, "x", "--peer", &format!("I{}", "0".repeat(64)), "--deadline", "300ms"], "E0103", 2),
    ] {
        let done = home.run(words);
        done.fails(code, exit);
        assert_eq!(done.stdout, "", "{words:?}");
        assert!(!done.stderr.contains('\u{1b}'), "no colour into a pipe: {words:?}");
        assert!(!done.stderr.contains("panicked"), "{words:?}");
    }
}

#[test]
fn an_unreachable_first_hop_is_a_typed_error_within_the_deadline() {
    let done = Home::new().run(&["ask", "tcp:127.0.0.1:1 => upper", "x", "--plain", "--deadline", "1s"]);
    assert_eq!(done.code, 75, "{done:?}");
    assert!(done.stderr.contains("error[E0404]") || done.stderr.contains("error[E0403]"), "{done:?}");
}

#[test]
fn a_missing_key_word_is_suggested() {
    let home = Home::new();
    assert!(home.run(&["nod", "ls"]).stderr.contains("node"));
    let config = home.file("onward.toml", "lisen = [\"tcp:127.0.0.1:0\"]");
    let done = home.run(&["node", "start", "--config", &config]);
    done.fails("E0106", 78);
    assert!(done.stderr.contains("did you mean `listen`?"), "{done:?}");
}

#[test]
fn settings_of_the_environment_are_checked() {
    let home = Home::new();
    for (name, value, code, exit) in [
        ("ONWARD_LOG_FORMAT", "xml", "E0111", 78),
        ("ONWARD_LOG", "a=b=c", "E0111", 78),
        ("ONWARD_OUTPUT", "yaml", "E0101", 2),
        ("ONWARD_TIMEOUT", "soon", "E0101", 2),
    ] {
        let words = ["ask", "tcp:127.0.0.1:1 => a", "x", "--plain"];
        let output = home.command(&words).env(name, value).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(code), "{name}: {stderr}");
        assert_eq!(output.status.code(), Some(exit), "{name}");
    }
    let output = home.command(&["route", "ls"]).env_remove("ONWARD_HOME").output().unwrap();
    assert_eq!(output.status.code(), Some(78), "no home at all");
}

#[test]
fn errors_are_json_where_the_output_is() {
    let home = Home::new();
    for words in [&["status", "-o", "json"][..], &["status", "--output=jsonl"], &["-o", "json", "nod"]] {
        let done = home.run(words);
        let error: serde_json::Value = serde_json::from_str(&done.stderr).unwrap();
        assert_eq!(error["schema"], 1);
        assert_eq!(error["error"]["exit"], done.code);
        assert!(error["error"]["help"].as_str().unwrap().len() > 5);
        assert!(error["error"]["retryable"].is_boolean());
    }
}

#[test]
fn every_code_is_explained() {
    let home = Home::new();
    let listed = home.run(&["explain", "-o", "json"]).json();
    let codes = listed["errors"].as_array().unwrap();
    assert!(codes.len() > 30);
    for code in codes {
        let number = code["code"].as_str().unwrap();
        let explained = home.run(&["explain", number, "-o", "json"]).json();
        assert!(explained["text"].as_str().unwrap().len() > 30, "{number}");
        assert_eq!(explained["exit"], code["exit"]);
    }
}

#[test]
fn a_state_directory_that_is_open_to_others_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = Home::new();
    home.run(&["route", "ls"]).ok();
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    home.run(&["route", "ls"]).fails("E0204", 77);
}
