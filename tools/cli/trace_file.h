// tools/cli/trace_file.h - the file of --trace: the Trace Event Format that chrome://tracing and
// Perfetto load.
#pragma once

#include <functional>
#include <string>

#include "base/trace.h"
#include "tools/cli/answer_sink.h"

namespace strata::cli {

/// Writes the events as one JSON object: "X" events with times in microseconds from the first of
/// them on, of two processes: 1 the steps, their operations and waits, which nest; 2 the disk, one
/// thread per staging frame, and per read of weights in flight, with one transfer at a time.
/// otherData says how many events were dropped. Errors: those of AnswerSink.
void write_trace(const Trace& trace, AnswerSink& sink);

/// Calls body(trace), with a null trace where `path` is empty. The file is opened before and
/// written afterwards, also where the body throws, whose error goes on then. Errors: kUsage, kIo
/// (the file), those of the body.
int with_trace(const std::string& path, const std::function<int(Trace* trace)>& body);

}  // namespace strata::cli
