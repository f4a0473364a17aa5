//! Enumerations that are one word in the file.

/// An enumeration whose variants are words of the file.
pub(super) trait Word: Copy + 'static {
    const ALL: &'static [(&'static str, Self)];
}

/// Declares one, which is the same word in JSON.
macro_rules! words {
    (
        $(#[$outer:meta])*
        pub enum $name:ident {
            $($(#[$inner:meta])* $variant:ident = $word:literal,)+
        }
    ) => {
        $(#[$outer])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $(
                $(#[$inner])*
                #[doc = concat!("`", $word, "`.")]
                #[serde(rename = $word)]
                $variant,
            )+
        }

        impl $crate::stack::word::Word for $name {
            const ALL: &'static [(&'static str, Self)] = &[$(($word, $name::$variant)),+];
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str(match self { $($name::$variant => $word),+ })
            }
        }
    };
}

pub(super) use words;
