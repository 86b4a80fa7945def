//! The command tree: short help, long help with examples, manual pages, completion.

use crate::harness::Home;

/// All visible commands as lists of words, found by reading their help.
fn tree(home: &Home, words: &[String]) -> Vec<Vec<String>> {
    let mut line: Vec<&str> = words.iter().map(String::as_str).collect();
    line.push("-h");
    let help = home.run(&line).ok();
    let commands =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let mut all = vec![words.to_vec()];
    for command in commands {
        let name = command.split_ascii_whitespace().next().unwrap();
        let words: Vec<String> = words.iter().cloned().chain([name.to_owned()]).collect();
        all.extend(tree(home, &words));
    }
    all
}

#[test]
fn every_command_has_one_screen_of_help_and_a_manual_page() {
    let home = Home::new();
    let tree = tree(&home, &[]);
    let everyday = ["serve", "send", "ask"];
    assert!(tree.len() >= 28, "{tree:?}");
    for words in &tree {
        let deep = words.starts_with(&["keyd".to_owned(), "policy".to_owned()]);
        assert!(words.len() <= if deep { 3 } else { 2 }, "at most three words: {words:?}");
        let run = |last: &str| {
            let line: Vec<&str> = words.iter().map(String::as_str).chain([last]).collect();
            home.run(&line).ok()
        };
        let (short, long) = (run("-h"), run("--help"));
        let most = if words.is_empty() { 35 } else { 24 };
        assert!(short.lines().count() <= most, "{words:?} has {} lines", short.lines().count());
        assert!(!short.contains("demo-part") && !short.contains("detached"), "{words:?}");
        assert!(!short.starts_with("Usage"), "{words:?} says what it does");
        if words.len() == 1 && everyday.contains(&words[0].as_str()) {
            assert!(
                long.lines().filter(|line| line.contains("onward ") && line.starts_with("  ")).count() >= 2
            );
        }
        let line: Vec<&str> = ["help", "--man"].into_iter().chain(words.iter().map(String::as_str)).collect();
        let page = home.run(&line).ok();
        assert!(page.contains(".TH ") && page.contains(".SH NAME"), "{words:?}");
    }
    let has = |noun: &str, verbs: &[&str]| {
        for verb in verbs {
            assert!(tree.contains(&vec![noun.to_owned(), (*verb).to_owned()]), "{noun} {verb}");
        }
    };
    has("node", &["start", "stop", "ls"]);
    has("route", &["add", "rm", "ls", "explain"]);
    has("identity", &["create", "show", "export", "introduce", "rotate"]);
    has(
        "key",
        &["create", "ls", "show", "rotate", "disable", "enable", "destroy", "wrap", "unwrap", "import"],
    );
    has("keyd", &["start", "status", "unlock", "passphrase", "lock", "reload", "policy"]);
    has("cache", &["status"]);
    has("ok2cry", &["new", "seal", "open", "inspect", "proof"]);
    has("audit", &["verify", "show"]);
    has("peer", &["add", "rm", "ls"]);
    has("queue", &["ls", "show", "new", "dead", "purge", "redeliver"]);
    has("demo", &["chain"]);
}

/// The examples in help, as words; a shell would not change them otherwise.
fn examples(help: &str) -> Vec<Vec<String>> {
    let lines =
        help.lines().map(str::trim).filter(|line| line.contains("onward ") && !line.starts_with("Usage"));
    let commands = lines.filter_map(|line| {
        line.strip_prefix("onward ").or_else(|| line.split_once("| onward ").map(|(_, rest)| rest))
    });
    commands.map(|line| split(line.split(" > ").next().unwrap_or(line))).collect()
}

fn split(line: &str) -> Vec<String> {
    let parts = line.split('\'').enumerate();
    let words = parts.flat_map(|(number, part)| match number % 2 {
        1 => vec![part.to_owned()],
        _ => part.split_ascii_whitespace().map(str::to_owned).collect(),
    });
    words.collect()
}

#[test]
fn examples_in_help_are_understood() {
    let home = Home::new();
    let mut seen = 0;
    for words in [
        &["serve"][..],
        &["send"],
        &["ask"],
        &["node", "start"],
        &["ok2cry"],
        &["route", "explain"],
        &["completion"],
    ] {
        let help = home.run(&[words, &["--help"]].concat()).ok();
        for example in examples(&help) {
            let mut line: Vec<&str> = example.iter().map(String::as_str).collect();
            // Understood up to where help takes over: nothing is started.
            let end = line.iter().position(|word| *word == "--").unwrap_or(line.len());
            line.insert(end, "--help");
            let shown = home.run(&line).ok();
            assert!(shown.contains("Usage: onward"), "{example:?}");
            seen += 1;
        }
    }
    assert!(seen >= 18, "{seen} examples");
}

#[test]
fn manual_pages_of_all_commands_are_written_to_a_directory() {
    let home = Home::new();
    let dir = home.path().parent().unwrap().join("man");
    std::fs::create_dir(&dir).unwrap();
    home.run(&["help", "--man-dir", dir.to_str().unwrap()]).ok();
    for name in ["onward.1", "onward-ask.1", "onward-node-start.1", "onward-demo-chain.1"] {
        assert!(dir.join(name).is_file(), "{name}");
    }
    assert!(!dir.join("onward-demo-part.1").exists());
}

#[test]
fn completion_scripts_know_the_commands() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = home.run(&["completion", shell]).ok();
        assert!(script.contains("onward") && script.contains("channel-expose"), "{shell}");
    }
}

#[test]
fn help_names_commands_or_says_that_there_is_none() {
    let home = Home::new();
    assert!(home.run(&["help", "node", "start"]).ok().contains("--hop"));
    assert!(home.run(&["help"]).ok().contains("demo"));
    home.run(&["help", "nothing"]).fails("E0101", 2);
}
