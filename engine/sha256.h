// engine/sha256.h - SHA-256, by which `inspect` names a chat template.
// Why: a template can be poisoned on its way, so its hash must be one that `sha256sum` prints and
// that cannot be forged. Source: FIPS 180-4 sections 4.1.2, 4.2.2, 5 and 6.2.
#pragma once

#include <string>
#include <string_view>

namespace strata::engine {

/// The 64 lower-case hexadecimal digits of SHA-256(text).
std::string sha256_hex(std::string_view text);

}  // namespace strata::engine
