// Names a build of this program, so that caches of one build are not taken for another's.
#pragma once

#include <string>

namespace lema {

// Lower-case hex of the linker's build ID of the running program, which outlives stripping; where
// it has none, of the SHA-256 of its file.
const std::string& build_id();

}  // namespace lema
