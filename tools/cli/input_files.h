// tools/cli/input_files.h - whole text inputs: documents, prompts, config files, standard input.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace strata::cli {

/// A whole file as text. `where` is what a message points at. Errors: kIo (absent, unreadable),
/// kUsage (larger than 1 GiB: no context holds it).
std::string read_text_file(const std::string& path, const std::string& where);
/// The same of a file in its usual place, or nothing where there is none. `remedy`: where one that
/// is there cannot be opened.
std::optional<std::string> read_text_file_if_present(const std::string& path,
                                                     const std::string& remedy);
/// Everything that comes on a descriptor until its end. Errors as above.
std::string read_descriptor(int descriptor, const std::string& name, const std::string& where);

/// True where standard input is a pipe, a socket or a file, so that something was given on purpose;
/// a terminal and /dev/null are not.
bool standard_input_is_given();

/// Errors: kBadText, with the byte offset of what is not UTF-8.
void check_utf8(std::string_view text, const std::string& where);

}  // namespace strata::cli
