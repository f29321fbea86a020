// tools/cli/replaced_file.h - a file of the cache folder that is replaced all at once.
#pragma once

#include <string>
#include <string_view>

namespace strata::cli {

/// Makes the folder, writes the text beside the file, syncs it and renames it, so that a reader
/// finds the old file or the new one, also after a power cut. `what` is for messages ("the
/// profile"). Errors: kIo; then the old file is as it was and nothing is left beside it.
void replace_cache_file(const std::string& path, std::string_view text, std::string_view what);

}  // namespace strata::cli
