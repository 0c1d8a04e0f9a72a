//! The declaration of a config section.

/// A declared key of a section.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// The keys of the section that the field is; empty for a value.
    pub(crate) keys: &'static [Key],
    /// The JSON Schema of a value.
    pub(crate) schema: fn() -> serde_json::Value,
    /// The lines of the doc comment.
    pub(crate) doc: &'static [&'static str],
}

/// The type of a key: a section, or of a value.
pub(crate) trait KeyType {
    /// The keys of a section; empty for a value.
    const KEYS: &'static [Key] = &[];

    /// Returns the JSON Schema of a value.
    fn schema() -> serde_json::Value;
}

impl Key {
    /// Returns the doc comment as one line of Markdown.
    pub(crate) fn documentation(&self) -> String {
        self.doc.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
    }
}

/// Declares a section: a struct whose fields have documentation and a default. Generates the
/// struct, its `Default`, and the keys, which unknown keys are checked against and the reference
/// and the JSON Schema are generated from.
///
/// Deserializing requires every field on purpose: `load.rs` merges the user's keys into the
/// serialized defaults of the entire config first. A default per section would give `model.mamba`
/// the name of a ViT when the config states only another of its keys.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ pub $key:ident: $type:ty = $default:expr, )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $key: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $key: $default, )+ }
            }
        }

        impl $crate::config::section::KeyType for $name {
            const KEYS: &'static [$crate::config::section::Key] = &[$(
                $crate::config::section::Key {
                    name: stringify!($key),
                    keys: <$type as $crate::config::section::KeyType>::KEYS,
                    schema: <$type as $crate::config::section::KeyType>::schema,
                    doc: &[$( $doc ),+],
                },
            )+];

            fn schema() -> serde_json::Value {
                serde_json::json!({"type": "object"})
            }
        }
    };
}

pub(crate) use section;

/// Returns `section.key`; the top has no name.
pub(crate) fn join(section: &str, key: &str) -> String {
    match section {
        "" => key.to_owned(),
        section => format!("{section}.{key}"),
    }
}
