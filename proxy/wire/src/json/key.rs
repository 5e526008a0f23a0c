//! The keys that the gateway acts on.

macro_rules! keys {
    ($( $variant:ident = $name:literal; )*) => {
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub(super) enum Key { #[default] Other, $( $variant, )* }

        impl Key {
            #[inline]
            pub(super) fn of(name: &[u8]) -> Self {
                $( if name == $name.as_bytes() { return Self::$variant; } )*
                Self::Other
            }

            pub(super) const fn name(self) -> &'static str {
                match self { Self::Other => "", $( Self::$variant => $name, )* }
            }
        }
    };
}

keys! {
    Model = "model";
    Stream = "stream";
    StreamOptions = "stream_options";
    IncludeUsage = "include_usage";
    MaxTokens = "max_tokens";
    MaxCompletionTokens = "max_completion_tokens";
    MaxOutputTokens = "max_output_tokens";
    N = "n";
    User = "user";
    Fallbacks = "fallbacks";
    ServiceTier = "service_tier";
    Metadata = "metadata";
    InferenceConfig = "inferenceConfig";
    Prompt = "prompt";
    BestOf = "best_of";
    Input = "input";
}
