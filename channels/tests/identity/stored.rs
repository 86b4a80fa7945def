//! What is kept and handed around: identifiers, identity files, stored identities.

use onward_channels::identity::{Identifier, Identity, IdentityError, VerifiedHistory};

use crate::fixture::{NOW, Person, YEAR, done};

#[test]
fn an_identifier_has_one_text() {
    let id = Person::new().id();
    let text = id.to_string();
    assert_eq!(text.len(), 65);
    assert_eq!(text.parse::<Identifier>().unwrap(), id);
    let upper = format!("I{}", "AB".repeat(32));
    for other in [
        "",
        "I",
        &text[1..],
        &text[..64],
        &upper,
        &format!("{text}0"),
        &format!(" {text}"),
        &text.replace('I', "i"),
    ] {
        assert!(matches!(other.parse::<Identifier>(), Err(IdentityError::Text(_))), "{other}");
    }
}

#[test]
fn an_identity_survives_being_stored() {
    let person = Person::new();
    let identity = done(person.identity.rotate(&person.vault, NOW + 1, YEAR)).unwrap();
    let stored = identity.encode();
    let read = Identity::decode(&stored).unwrap();
    assert_eq!(read, identity);
    assert!(done(read.rotate(&person.vault, NOW + 2, YEAR)).is_ok());
    for length in 0..stored.len() {
        assert!(Identity::decode(&stored[..length]).is_err());
    }
}

#[test]
fn a_history_survives_being_written_down() {
    let person = Person::new();
    let history = person.identity.history();
    let text = history.to_text();
    assert!(text.starts_with(&format!("-----BEGIN ONWARD IDENTITY-----\n{}\n", person.id())));
    assert_eq!(&VerifiedHistory::from_text(&text).unwrap(), history);
    assert_eq!(&VerifiedHistory::from_text(&text.replace('\n', "\r\n")).unwrap(), history);
}

#[test]
fn an_altered_identity_file_is_refused() {
    let text = Person::new().identity.history().to_text();
    let lines: Vec<&str> = text.lines().collect();
    for line in 0..lines.len() {
        let without: Vec<&str> =
            lines.iter().enumerate().filter(|(n, _)| *n != line).map(|(_, line)| *line).collect();
        assert!(VerifiedHistory::from_text(&without.join("\n")).is_err(), "without line {line}");
        let twice: Vec<&str> =
            lines.iter().enumerate().flat_map(|(n, text)| vec![*text; 1 + usize::from(n == line)]).collect();
        assert!(VerifiedHistory::from_text(&twice.join("\n")).is_err(), "line {line} twice");
        let mut blank = lines.clone();
        blank.insert(line, "");
        assert!(VerifiedHistory::from_text(&blank.join("\n")).is_err(), "blank before line {line}");
    }
    for (position, digit) in text.char_indices() {
        let mut altered = text.clone();
        let other = if digit == '0' { "1" } else { "0" };
        altered.replace_range(position..=position, other);
        assert!(VerifiedHistory::from_text(&altered).is_err(), "character {position}");
    }
    assert!(VerifiedHistory::from_text(&text.replace("\n-----END", "\n\n-----END")).is_err());
    let swapped = text.replacen(lines[1], &Person::new().id().to_string(), 1);
    assert!(matches!(VerifiedHistory::from_text(&swapped), Err(IdentityError::Text(_))));
}
