//! The declaration of a config section.

/// A declared key of a section.
pub(super) struct Key {
    pub name: &'static str,
    /// The keys of the section that the field is; empty for a value.
    pub keys: &'static [Key],
    /// The lines of the doc comment.
    pub doc: &'static [&'static str],
}

/// Gives types that are not sections no keys: an inherent `KEYS` takes precedence over a trait's.
pub(super) trait Leaf {
    const KEYS: &'static [Key] = &[];
}

impl<T> Leaf for T {}

/// Declares a section: a struct whose fields have documentation and a default. Generates the
/// struct, its `Default`, and `KEYS`, which unknown keys are checked against and the reference is
/// generated from.
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

        impl $name {
            pub(in crate::config) const KEYS: &'static [$crate::config::section::Key] = {
                #[allow(unused_imports)] // `Leaf` is unused where every field is a section
                use $crate::config::section::{Key, Leaf as _};
                &[$( Key {
                    name: stringify!($key),
                    keys: <$type>::KEYS,
                    doc: &[$( $doc ),+],
                }, )+]
            };
        }
    };
}

pub(super) use section;

/// Returns `section.key`; the top has no name.
pub(super) fn join(section: &str, key: &str) -> String {
    match section {
        "" => key.to_owned(),
        section => format!("{section}.{key}"),
    }
}
