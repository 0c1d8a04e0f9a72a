//! The declaration of a config section.

/// A declared key of a section.
pub(super) struct Key {
    pub name: &'static str,
    /// The field's type as written, which names the section if the field is one.
    pub type_name: &'static str,
    /// The lines of the doc comment.
    pub doc: &'static [&'static str],
}

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
            pub(in crate::config) const KEYS: &'static [$crate::config::section::Key] = &[
                $( $crate::config::section::Key {
                    name: stringify!($key),
                    type_name: stringify!($type),
                    doc: &[$( $doc ),+],
                }, )+
            ];
        }
    };
}

pub(super) use section;
