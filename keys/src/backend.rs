//! The backends: which implementation computes an operation that has more than one.
//!
//! Two backends exist because they are good at different things: the portable one is Rust alone and builds everywhere,
//! the accelerated one is AWS-LC and seals small records and runs key agreement several times faster. Both are
//! compiled together and chosen at run time, so each is the other's test partner. A backend decides speed, never
//! results: for every input both answer the same.

/// An implementation of AEAD, X25519 and ML-KEM-768. Hashes and signatures have one implementation for all.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum Backend {
    /// RustCrypto and dalek: Rust alone, always there.
    Portable,
    /// AWS-LC: C and assembly, with the feature `accel`.
    #[cfg(feature = "accel")]
    Accelerated,
}

impl Backend {
    /// Every backend compiled in, the best one last.
    #[must_use]
    pub const fn available() -> &'static [Self] {
        &[
            Self::Portable,
            #[cfg(feature = "accel")]
            Self::Accelerated,
        ]
    }

    /// The fastest backend compiled in.
    #[must_use]
    pub const fn best() -> Self {
        #[cfg(feature = "accel")]
        {
            Self::Accelerated
        }
        #[cfg(not(feature = "accel"))]
        {
            Self::Portable
        }
    }

    /// Whether this processor has instructions for AES and for its GCM multiplication.
    ///
    /// Without them AES-256-GCM is slower than ChaCha20-Poly1305 on every backend, so an endpoint should not offer it.
    #[must_use]
    pub fn has_hardware_aes() -> bool {
        #[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
        {
            std::arch::is_x86_feature_detected!("aes") && std::arch::is_x86_feature_detected!("pclmulqdq")
        }
        #[cfg(target_arch = "aarch64")]
        {
            std::arch::is_aarch64_feature_detected!("aes") && std::arch::is_aarch64_feature_detected!("pmull")
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "x86", target_arch = "aarch64")))]
        {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_backend_is_the_last_available_one() {
        assert_eq!(Backend::available().first(), Some(&Backend::Portable));
        assert_eq!(Backend::available().last(), Some(&Backend::best()));
        assert_eq!(Backend::available().len(), if cfg!(feature = "accel") { 2 } else { 1 });
    }
}
