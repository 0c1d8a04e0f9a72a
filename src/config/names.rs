//! Values that are chosen by name, and suggestions for misspelled names.

/// Returns whether a character may be in the name of a folder that this program makes.
pub(crate) fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-_.".contains(c)
}

/// Declares an enum whose variants have names in the config, and perhaps others by which they are
/// read too, with `ALL`, `name()`, `Display`,
/// `FromStr` and serde. The error for an unknown name suggests the nearest one.
macro_rules! names {
    (
        $(#[doc = $about:literal])+
        pub enum $enum:ident {
            $( $(#[doc = $doc:literal])+ $variant:ident = $name:literal $(| $other:literal)*, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $enum {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl $enum {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];

            /// Returns the name in the config.
            pub fn name(self) -> &'static str {
                match self {
                    $( Self::$variant => $name, )+
                }
            }
        }

        impl std::fmt::Display for $enum {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.name())
            }
        }

        impl std::str::FromStr for $enum {
            type Err = String;

            fn from_str(name: &str) -> Result<Self, String> {
                match name {
                    $( $name $(| $other)* => Ok(Self::$variant), )+
                    _ => Err($crate::config::names::unknown(name, &[$( $name ),+])),
                }
            }
        }

        $crate::config::names::serde_as_text!($enum);

        impl $crate::config::section::KeyType for $enum {
            fn schema() -> serde_json::Value {
                $crate::config::schema::one_of(&[$( $name ),+], &[$( $( $other, )* )+])
            }
        }
    };
}

/// Serializes a type by its `Display`, and deserializes it by its `FromStr`.
macro_rules! serde_as_text {
    ($type:ident) => {
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                // A number or an empty value gets the error with the names, too.
                let text = match serde_yaml::Value::deserialize(deserializer)? {
                    serde_yaml::Value::String(text) => text,
                    other => $crate::config::write::flow(&other),
                };
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

pub(crate) use {names, serde_as_text};

/// What other programs call some of the values.
const SYNONYMS: [(&str, &str); 22] = [
    ("fp32", "float32"),
    ("f32", "float32"),
    ("32", "float32"),
    ("full", "float32"),
    ("float16", "fp16"),
    ("half", "fp16"),
    ("16", "fp16"),
    ("16-mixed", "fp16"),
    ("bfloat16", "bf16"),
    ("bf16-mixed", "bf16"),
    ("mae", "l1"),
    ("smooth_l1", "huber"),
    ("loss", "train_loss"),
    ("pearson", "pc"),
    ("spearman", "srcc"),
    ("mse", "rmse"),
    ("cat", "concat"),
    ("add", "sum"),
    ("attention", "cross_attention"),
    ("vit", "vit_only"),
    ("mamba", "mamba_only"),
    ("vim", "mamba_only"),
];

/// Returns `must be one of a, b, is c; did you mean a?`
pub(crate) fn unknown(name: &str, known: &[&str]) -> String {
    let meant = SYNONYMS.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    let meant = meant.map(|(_, meant)| *meant).find(|meant| known.contains(meant));
    let hint = match meant.or_else(|| nearest(name, known.iter().copied())) {
        Some(nearest) => format!("; did you mean {nearest}?"),
        None => String::new(),
    };
    if let [only] = known {
        return format!("must be {only}, is {name}{hint}");
    }
    format!("must be one of {}, is {name}{hint}", known.join(", "))
}

/// Returns the known name most similar to `name`, if one is similar enough.
pub(crate) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|known| (likeness(name, known), known))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .min_by(|a, b| b.0.total_cmp(&a.0)) // the first of equals
        .map(|(_, known)| known)
}

/// The least similarity of a suggestion.
pub(super) const ALIKE: f64 = 0.5;

/// Returns a similarity from 0 (nothing in common) to 1 (equal except for case and `-` or `_`).
pub(super) fn likeness(a: &str, b: &str) -> f64 {
    let (short, long) = (a.len().min(b.len()), a.len().max(b.len()));
    if 4 * short < long {
        return 0.0; // not alike, and the time grows with the product of the lengths
    }
    let plain = |name: &str| name.to_lowercase().replace('-', "_");
    strsim::normalized_damerau_levenshtein(&plain(a), &plain(b))
}
