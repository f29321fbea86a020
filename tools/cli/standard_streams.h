// tools/cli/standard_streams.h - the three descriptors a program takes for granted.
#pragma once

namespace strata::cli {

/// Puts the null device where standard input, output or error was closed by the caller. Why: the
/// next file that is opened, the model or the answer's own, would otherwise take that number and
/// be read or written in its place. Writing to a standard output that was closed still fails.
void fill_closed_streams();

}  // namespace strata::cli
