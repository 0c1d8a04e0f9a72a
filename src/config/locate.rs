//! Finds the line of a key.
//!
//! The parser reports the place of an error only. So the text is parsed once more, by a
//! deserializer that descends to the key and fails there on purpose.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};

/// Returns the line, from 1, of the key at `path`, or of the nearest section around it that is in
/// the text; `None` if not even the first name is.
pub(crate) fn line_of(text: &str, path: &[&str]) -> Option<usize> {
    (1..=path.len()).rev().find_map(|depth| {
        let found = Cell::new(false);
        let find = Find { path: &path[..depth], found: &found };
        let stop = find.deserialize(serde_yaml::Deserializer::from_str(text));
        let location = stop.err().filter(|_| found.get())?.location()?;
        Some(location.line())
    })
}

/// Descends the maps along `path`; its error is at the last key.
struct Find<'a> {
    path: &'a [&'a str],
    /// Set before failing on purpose: a text without the key, or a value in its place, fails too.
    found: &'a Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for Find<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Find<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Some((wanted, rest)) = self.path.split_first() else {
            return Ok(());
        };
        let key = || IsKey { wanted, stop: rest.is_empty().then_some(self.found) };
        while let Some(matches) = map.next_key_seed(key())? {
            if matches {
                map.next_value_seed(Find { path: rest, found: self.found })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

/// Deserializes whether a key is the wanted one; fails at that key if the path ends there.
struct IsKey<'a> {
    wanted: &'a str,
    stop: Option<&'a Cell<bool>>,
}

impl<'de> DeserializeSeed<'de> for IsKey<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for IsKey<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: de::Error>(self, key: &str) -> Result<bool, E> {
        match self.stop {
            Some(found) if key == self.wanted => {
                found.set(true);
                Err(E::custom("found"))
            }
            _ => Ok(key == self.wanted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# a comment
name: a
data:
  root: x
  augment: {rotation: 3,
            horizontal_flip: 1}
train:

  head: [1,
    2]
";

    #[test]
    fn keys_in_block_and_in_flow_style_are_found() {
        for (path, line) in [
            (&["name"][..], 2),
            (&["data"], 3),
            (&["data", "root"], 4),
            (&["data", "augment", "rotation"], 5),
            (&["data", "augment", "horizontal_flip"], 6),
            (&["train", "head"], 9),
        ] {
            assert_eq!(line_of(TEXT, path), Some(line), "{path:?}");
        }
    }

    #[test]
    fn a_missing_key_is_at_the_line_of_its_section() {
        assert_eq!(line_of(TEXT, &["data", "augment", "color_jitter"]), Some(5));
        assert_eq!(line_of(TEXT, &["name", "of", "what"]), Some(2));
        assert_eq!(line_of(TEXT, &["model", "vit"]), None);
        for text in ["", "# only a comment\n", "- a\n- b\n", "model"] {
            assert_eq!(line_of(text, &["model"]), None, "{text}");
        }
    }
}
