// tools/serve/http_head.h - what the head of a request must look like before the library reads it.
// Why: cpp-httplib skips lines that it does not know and keeps spaces in names, so a proxy and it
// could disagree about where a request ends.   Source: RFC 9112, sections 2.2, 3.2 and 5.
#pragma once

#include <cstddef>
#include <string_view>

namespace strata::serve {

/// The size of the head that `bytes` begin with, its empty line included; 0 where it is not whole.
/// Nothing before `from` is looked at again.
size_t head_size(std::string_view bytes, size_t from = 0);

/// What is wrong with a whole head, or null. Lines end with CRLF, hold no control character but
/// tabs, and name a header; Host is given once at most; Range, which nothing here serves and the
/// library hands to std::regex, is short.
const char* head_fault(std::string_view head);

}  // namespace strata::serve
