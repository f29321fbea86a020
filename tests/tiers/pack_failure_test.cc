// Each system call of saving, looking up, evicting and removing fails in turn.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/tiers/failing_calls.h"
#include "tests/tiers/rows_fixture.h"

namespace strata::tiers {
namespace {

constexpr PackLimits kNoWait = {.lock_wait = std::chrono::milliseconds(0)};

struct Mode {
  bool for_good;
  bool has_unnamed_files;
  int error;
};
constexpr Mode kModes[] = {
    {false, true, EIO}, {true, true, EIO}, {false, false, ENOSPC}, {true, false, EIO}};

SessionManifest session_of(const std::vector<int32_t>& tokens, std::vector<std::string> packs) {
  return {small_shape().model, "small", tokens, std::move(packs)};
}

/// A pack of 256 positions, kept by the session "book".
void save_first_half(const std::string& path, const std::vector<int32_t>& text) {
  WatchedCalls calls;
  PackDirectory packs = PackDirectory::open(path, {}, calls);
  const auto half = std::span(text).first(256);
  packs.pin("book", session_of({half.begin(), half.end()}, save_text(packs, small_shape(), half)));
}

bool has_hidden(const std::string& path) {
  const auto names = names_in(path);
  return std::ranges::any_of(names, [](const std::string& name) { return name[0] == '.'; });
}

/// Fails each call of `action` in turn, in a directory that save_first_half has filled, until none
/// fails; `check` sees the directory opened again, and whether the action reported an error.
void fail_each_call(const std::vector<int32_t>& text, const PackLimits& limits,
                    const std::function<void(PackDirectory&)>& action,
                    const std::function<void(PackDirectory&, bool has_failed)>& check) {
  for (const Mode& mode : kModes) {
    uint64_t n_calls = 0;
    for (uint64_t k = 1; k == 1 || k <= n_calls + 1; ++k) {
      SCOPED_TRACE("call " + std::to_string(k) + (mode.for_good ? " and all later" : "") +
                   (mode.has_unnamed_files ? "" : ", hidden names"));
      const FreshPath directory;
      save_first_half(directory.path(), text);
      FailingCalls calls(k, mode.for_good, mode.error);
      calls.has_unnamed_files = mode.has_unnamed_files;
      bool has_failed = false;
      try {
        PackDirectory packs = PackDirectory::open(directory.path(), limits, calls);
        action(packs);
      } catch (const Error& error) {
        has_failed = true;
        EXPECT_NE(error.remedy(), "");
      }
      n_calls = calls.n_calls();
      EXPECT_EQ(calls.n_open, 0);
      // A hidden name stays where its removal is what fails, until the next open.
      if (!mode.for_good && mode.has_unnamed_files) {
        EXPECT_FALSE(has_hidden(directory.path()));
      }
      if (k > n_calls) {
        EXPECT_FALSE(has_failed);
      }
      PackDirectory packs = PackDirectory::open(directory.path(), kNoWait);
      EXPECT_FALSE(has_hidden(directory.path()));
      check(packs, has_failed);
      if (::testing::Test::HasFailure()) return;
      if (k > n_calls) break;
    }
    EXPECT_GT(n_calls, 5u);
  }
}

TEST(PackFailure, SavingLeavesTheOldOrTheWholeContext) {
  const auto text = random_text(1, 500);
  const auto half = std::span(text).first(256);
  const auto save = [&](PackDirectory& packs) {
    auto names = save_text(packs, small_shape(), half);
    names.push_back(save_run(packs, run_of(small_shape(), text, 256, 500)));
    packs.pin("book", session_of(text, names));
  };
  fail_each_call(text, kNoWait, save, [&](PackDirectory& packs, bool has_failed) {
    EXPECT_EQ(problems_of(packs), "");
    const auto session = packs.session("book");
    ASSERT_TRUE(session);
    const FoundContext found = packs.find(small_shape(), {}, text);
    expect_whole(found);
    EXPECT_TRUE(found.n_positions == 256 || found.n_positions == 500) << found.n_positions;
    const bool is_old = session->tokens.size() == 256;
    if (!is_old) {
      EXPECT_EQ(session->tokens, text);
    }
    if (!is_old) {
      EXPECT_EQ(found.n_positions, 500u);
    }
    if (!has_failed) {
      EXPECT_FALSE(is_old);
    }
  });
}

TEST(PackFailure, SavingRowsLeavesTheOldTheNewOrNone) {
  const auto text = random_text(1, 256);
  const auto save = [&](PackDirectory& packs) {
    const FoundContext found = packs.find(small_shape(), {}, text);
    if (found.n_positions != 256) throw Error(ErrorCode::kIo, "not found", "", "look again");
    save_rows(packs, found.pieces[0].pack->name(), small_rows(), 0, 1);
    save_rows(packs, found.pieces[0].pack->name(), small_rows(), 0, 1);
  };
  fail_each_call(text, kNoWait, save, [&](PackDirectory& packs, bool has_failed) {
    EXPECT_EQ(problems_of(packs), "");
    FoundContext found = packs.find(small_shape(), {}, text);
    EXPECT_EQ(found.n_positions, 256u);
    const uint32_t n = expect_whole_rows(packs, found, small_rows());
    EXPECT_TRUE(n == 1 || has_failed);
  });
}

TEST(PackFailure, LookingUpFindsLessOrAllOfIt) {
  const auto text = random_text(2, 256);
  uint32_t n_found = 0;
  const auto look = [&](PackDirectory& packs) {
    n_found = 0;
    const FoundContext found = packs.find(small_shape(), {}, text);
    expect_whole(found);
    n_found = found.n_positions;
  };
  fail_each_call(text, kNoWait, look, [&](PackDirectory& packs, bool) {
    EXPECT_TRUE(n_found == 0 || n_found == 256) << n_found;
    EXPECT_EQ(problems_of(packs), "");
    EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 256u);
  });
}

TEST(PackFailure, ReplacingLeavesTheEarlierOrTheNewPack) {
  const auto text = random_text(6, 256);
  const std::string name = pack_file_name(PackHead::of(run_of(small_shape(), text, 0, 256)));
  std::vector<std::byte> whole, damaged;
  const auto replace = [&](PackDirectory& packs) {
    whole = damaged = bytes_of_file(packs.files()->path_of(name));
    damaged[0] ^= std::byte{1};
    write_file(packs.files()->path_of(name), damaged);
    save_text(packs, small_shape(), text);
  };
  fail_each_call(text, kNoWait, replace, [&](PackDirectory& packs, bool has_failed) {
    const auto bytes = bytes_of_file(packs.files()->path_of(name));
    EXPECT_FALSE(bytes.empty());
    EXPECT_TRUE(bytes == whole || (has_failed && bytes == damaged) || damaged.empty());
  });
}

TEST(PackFailure, EvictingForRoomLeavesWholePacks) {
  const auto text = random_text(3, 256);
  const auto other = random_text(4, 256);
  const uint64_t pack_bytes = pack_bytes_max(run_of(small_shape(), text, 0, 256));
  const PackLimits limits = {.budget_bytes = 2 * pack_bytes - 1, .lock_wait = {}};
  const auto evict = [&](PackDirectory& packs) {
    packs.unpin("book");
    save_run(packs, run_of(small_shape(), other, 0, 256));
  };
  fail_each_call(text, limits, evict, [&](PackDirectory& packs, bool has_failed) {
    EXPECT_EQ(code_of([&] { EXPECT_EQ(problems_of(packs), ""); }), "none");
    EXPECT_LE(packs.n_packs(), 1u);
    if (!has_failed) {
      EXPECT_EQ(packs.find(small_shape(), {}, other).n_positions, 256u);
    }
  });
}

TEST(PackFailure, RemovingCanBeRepeatedUntilAllIsGone) {
  const auto text = random_text(5, 256);
  const auto remove = [&](PackDirectory& packs) { packs.remove("book"); };
  fail_each_call(text, kNoWait, remove, [&](PackDirectory& packs, bool has_failed) {
    if (!has_failed) {
      EXPECT_EQ(packs.n_packs(), 0u);
    }
    // The session is gone only when its packs are.
    EXPECT_EQ(packs.remove("book").has_value(),
              packs.n_packs() > 0 || packs.session("book").has_value());
    EXPECT_EQ(packs.n_packs(), 0u);
    EXPECT_EQ(packs.used_bytes(), 0u);
  });
}

/// A disk that takes files and refuses their names.
class NamelessDisk final : public WatchedCalls {
 public:
  bool is_failing = false;

 protected:
  int sync_for_real(int descriptor) override {
    FileStatus status;
    DurableCalls::status(descriptor, status);
    return is_failing && !status.is_regular ? -EIO : 0;
  }
};

TEST(PackFailure, ANameThatDidNotReachTheDiskIsTakenBack) {
  for (const bool has_unnamed_files : {true, false}) {
    const FreshPath directory;
    NamelessDisk disk;
    disk.has_unnamed_files = has_unnamed_files;
    PackDirectory packs = PackDirectory::open(directory.path(), kNoWait, disk);
    disk.is_failing = true;
    const auto text = random_text(1, 100);
    EXPECT_EQ(code_of([&] { save_text(packs, small_shape(), text); }), "io");
    EXPECT_TRUE(names_in(directory.path()).empty());
    disk.is_failing = false;
    save_text(packs, small_shape(), text);
    EXPECT_EQ(packs.find(small_shape(), {}, text).n_positions, 100u);
  }
}

TEST(PackFailure, AnErrorSaysWhatToDo) {
  const FreshPath directory;
  save_first_half(directory.path(), random_text(1, 256));
  for (const auto& [error, remedy] :
       {std::pair(ENOSPC, "Free space on this disk, or remove saved contexts."),
        std::pair(EIO, "Look for the disk's errors in the system log before saving again.")}) {
    FailingCalls calls(1, true, error);
    try {
      PackDirectory::open(directory.path(), kNoWait, calls);
      FAIL() << "opened";
    } catch (const Error& thrown) {
      EXPECT_EQ(thrown.code(), ErrorCode::kIo);
      EXPECT_EQ(thrown.remedy(), remedy);
    }
  }
}

}  // namespace
}  // namespace strata::tiers
