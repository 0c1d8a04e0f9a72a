//! How a section of the config is declared.

/// A key of a section, as declared.
pub(super) struct Key {
    pub name: &'static str,
    /// The field's type as written; that of a section's field names the section.
    pub type_name: &'static str,
    /// The lines of the doc comment.
    pub doc: &'static [&'static str],
}

/// Declares a section: a struct whose fields carry their documentation and their
/// default. It makes the struct, its `Default`, and `KEYS`, from which unknown keys
/// are told and the reference is written.
///
/// Deserializing demands every field on purpose: `load.rs` lays the user's keys over
/// the serialized defaults of the whole config first. A default by section would give
/// `model.mamba` the name of a ViT when only another of its keys is stated.
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
