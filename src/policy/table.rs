//! The macro behind the table of policies.

/// Turns rows of `yaml_key => Type` into everything that must agree about a policy.
///
/// By hand these are five lists, and a policy missing from one of them would be accepted in YAML and never enforced.
/// Here it cannot be.
macro_rules! policies {
    ($($key:ident => $Policy:ident,)+) => {
        /// The `policies` of a route, or of `defaults`. Each is asked at its own stage, whatever the order here.
        ///
        /// `off` (or `false`) switches off what `defaults` switched on.
        #[derive(Clone, Debug, Default, serde::Deserialize, serde::Serialize, schemars::JsonSchema)]
        #[serde(default, deny_unknown_fields)]
        #[schemars(rename = "Policies")]
        pub struct Blocks {
            $(
                #[doc = concat!("The policy `", stringify!($key), "`; it has a section of its own.")]
                #[serde(skip_serializing_if = "crate::config::value::Setting::is_inherit")]
                pub $key: crate::config::value::Setting<$key::Config>,
            )+
        }

        impl Blocks {
            /// What holds on a route: its own blocks, and those of `defaults` where it has none.
            #[must_use]
            pub fn or(&self, defaults: &Blocks) -> Blocks {
                Blocks { $($key: self.$key.or(&defaults.$key),)+ }
            }

            /// The same, with what is in force where a block says nothing.
            #[must_use]
            pub fn in_force(&self, defaults: &Blocks) -> Blocks {
                let mut blocks = self.or(defaults);
                blocks.fill();
                blocks
            }

            /// Compiles each block that is given, into `scope`.
            pub fn compile(&self, scope: &mut Scope<'_>) {
                scope.exposure = self.exposure();
                $(if let crate::config::value::Setting::On(config) = &self.$key {
                    scope.within(stringify!($key), |scope| config.compile(scope));
                })+
            }

            /// Each policy's key, and what of its settings protects.
            pub const GUARDS: &'static [(&'static str, &'static [Guard])] =
                &[$((stringify!($key), $key::GUARDS),)+];

            /// Whether the block of this key is given here, and not inherited.
            pub fn gives(&self, key: &str) -> bool {
                match key {
                    $(stringify!($key) => !self.$key.is_inherit(),)+
                    _ => false,
                }
            }
        }

        /// A compiled policy.
        pub enum AnyPolicy { $(
            #[doc = concat!("`", stringify!($key), "`")]
            $Policy($key::$Policy),
        )+ }

        impl AnyPolicy {
            /// Asks it.
            pub async fn on_request(&self, exchange: &Exchange) -> Result<Verdict, Rejection> {
                match self { $(Self::$Policy(policy) => policy.on_request(exchange).await,)+ }
            }
        }

        $(impl From<$key::$Policy> for AnyPolicy {
            fn from(policy: $key::$Policy) -> Self {
                Self::$Policy(policy)
            }
        })+
    };
}

pub(super) use policies;
