// `strata session` and `strata cache` as the user sees them, on packs that the tests save.
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>
#include <vector>

#include "tests/tiers/pack_fixture.h"
#include "tests/tools/refusal.h"
#include "tests/tools/strata_process.h"

namespace strata::cli {
namespace {

using nlohmann::json;
using testing::Launch;
using testing::Outcome;
using testing::run_strata;
using Words = std::vector<std::string>;

class SavedContexts : public testing::RefusalTest {
 protected:
  /// Saves the text of a seed in packs of 256 positions, under a name where there is one; returns
  /// the packs' names in the order of the text.
  Words save(uint64_t seed, size_t n, const std::string& session = "") {
    auto packs = tiers::PackDirectory::open(fresh_.path(), {});
    const auto text = tiers::random_text(seed, n);
    auto names = tiers::save_text(packs, tiers::small_shape(), text, 256);
    if (!session.empty())
      packs.pin(session, {tiers::small_shape().model, "Small \x1b[31m1B", text, names});
    return names;
  }
  void flip_byte(const std::string& name, size_t at) {
    auto bytes = tiers::bytes_of_file(path_of(name));
    bytes.at(at) ^= std::byte{1};
    tiers::write_file(path_of(name), bytes);
  }
  std::string path_of(const std::string& name) const { return fresh_.path() + "/" + name; }
  uint64_t bytes_of(const std::string& name) const {
    return std::filesystem::file_size(path_of(name));
  }
  Words files() const { return tiers::names_in(fresh_.path()); }

  Words in_directory(Words words) const {
    words.insert(words.end(), {"--session-dir", fresh_.path()});
    return words;
  }
  Outcome run(const Words& words) const { return run_strata(in_directory(words)); }
  json run_json(Words words, int exit_code = 0) const {
    words.push_back("--json");
    const Outcome outcome = run(words);
    EXPECT_EQ(outcome.exit_code, exit_code) << outcome.out << outcome.err;
    EXPECT_EQ(outcome.err.find("error"), std::string::npos) << outcome.err;  // progress may show
    return json::parse(outcome.out, nullptr, false);
  }
  void expect_usage(const Words& words, const std::string& what, const std::string& where,
                    const std::string& remedy) const {
    expect_refused(in_directory(words), {2, "usage", {what}, where, remedy});
  }

  tiers::FreshPath fresh_;
};

TEST_F(SavedContexts, SessionListHasTheFieldsThatScriptsRead) {
  const Words book = save(1, 300, "book");
  save(2, 40, "code");
  const json list = run_json({"session", "list"});
  ASSERT_EQ(list.size(), 2u);
  EXPECT_EQ(list[0]["name"], "book");
  EXPECT_EQ(list[0]["model"], "Small \x1b[31m1B");
  EXPECT_EQ(list[0]["tokens"], 300);
  EXPECT_EQ(list[0]["bytes"], bytes_of(book[0]) + bytes_of(book[1]) + bytes_of("book.session"));
  EXPECT_TRUE(std::regex_match(list[0]["created"].get<std::string>(),
                               std::regex("20\\d\\d-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\dZ")))
      << list[0]["created"];
  EXPECT_EQ(list[0]["verified"], true);
  EXPECT_EQ(list[0].size(), 6u);
  EXPECT_EQ(list[1]["name"], "code");
}

TEST_F(SavedContexts, SessionListIsATableForPeopleThatSteersNoTerminal) {
  save(1, 300, "book");
  const Outcome outcome = run({"session", "list"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(outcome.out.starts_with("NAME  MODEL")) << outcome.out;
  EXPECT_NE(outcome.out.find("\nbook  Small \\x1b[31m1B     300"), std::string::npos)
      << outcome.out;
  EXPECT_EQ(outcome.out.find('\x1b'), std::string::npos);
  EXPECT_TRUE(outcome.out.ends_with("  ok\n")) << outcome.out;
}

TEST_F(SavedContexts, WhatIsDamagedOrForeignIsListedAsSuchAndHidesNothing) {
  const Words book = save(1, 300, "book");
  save(2, 40, "broken");
  const Words gone = save(3, 40, "gone");
  save(4, 40, "whole");
  flip_byte("broken.session", 60);
  std::filesystem::remove(path_of(gone[0]));
  std::filesystem::resize_file(path_of(book[1]), 100);
  for (const char* foreign : {"notes.txt", "a b.session", ".hidden.session", "x.pack"})
    std::ofstream(path_of(foreign)) << "not ours";
  std::ofstream(path_of("odd.session")) << "not ours";
  const json list = run_json({"session", "list"});
  std::map<std::string, std::string> problems;
  for (const json& session : list) {
    problems[session["name"]] = session.value("problem", "");
    EXPECT_EQ(session["verified"], session["name"] == "whole");
  }
  EXPECT_EQ(problems["book"], "1 of 2 packs damaged");
  EXPECT_NE(problems["broken"].find("hash differs"), std::string::npos) << problems["broken"];
  EXPECT_EQ(problems["gone"], "1 of 1 pack missing");
  EXPECT_NE(problems["odd"], "");
  EXPECT_EQ(problems["whole"], "");
  EXPECT_EQ(problems.size(), 5u);
  EXPECT_NE(run({"session", "list"}).out.find("NOT WHOLE: 1 of 2 packs damaged"),
            std::string::npos);
}

TEST_F(SavedContexts, ADirectoryThatDoesNotExistIsEmptyAndIsNotMade) {
  EXPECT_EQ(run_json({"session", "list"}), json::array());
  EXPECT_EQ(run_json({"session", "verify"})["packs"], 0);
  EXPECT_EQ(run_json({"cache", "list"})["packs"], json::array());
  EXPECT_EQ(run_json({"cache", "rm", "--all"})["bytes"], 0);
  EXPECT_EQ(run_json({"session", "rm", "--all"})["bytes"], 0);
  const Outcome outcome = run({"session", "list"});
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.err, "no session is saved in " + fresh_.path() + "\n");
  expect_usage({"session", "show", "book"}, "there is no session 'book'", fresh_.path(),
               "no session is saved here");
  EXPECT_FALSE(std::filesystem::exists(fresh_.path()));
}

TEST_F(SavedContexts, TheUsualPlaceFollowsTheEnvironment) {
  Launch launch;
  launch.arguments = {"session", "list"};
  launch.environment = {{"HOME", "/nowhere/user"}, {"XDG_DATA_HOME", ""}};
  EXPECT_EQ(run_strata(launch).err,
            "no session is saved in /nowhere/user/.local/share/strata/sessions\n");
  launch.environment["XDG_DATA_HOME"] = "/nowhere/data";
  EXPECT_EQ(run_strata(launch).err, "no session is saved in /nowhere/data/strata/sessions\n");
  launch.environment["STRATA_SESSION_DIR"] = "/nowhere/named";
  EXPECT_EQ(run_strata(launch).err, "no session is saved in /nowhere/named\n");
  launch.environment = {{"HOME", ""}, {"XDG_DATA_HOME", ""}};
  expect_refused(launch, {2, "usage", {"no folder"}, "--session-dir", "--session-dir DIR"});
}

TEST_F(SavedContexts, SharedFoldersAreRefused) {
  save(1, 40, "book");
  std::filesystem::permissions(fresh_.path(), std::filesystem::perms(0755));
  expect_usage({"session", "list"}, "others can reach", fresh_.path(), "chmod 700");
}

TEST_F(SavedContexts, AnotherUsersFolderIsRefusedAsSuch) {
  save(1, 40, "book");
  if (::chown(fresh_.path().c_str(), 1234, 1234) != 0) GTEST_SKIP() << "no right to give it away";
  expect_usage({"session", "list"}, "is another user's", fresh_.path(), "of your own");
}

TEST_F(SavedContexts, SessionShowNamesEveryPackAndWhoElseKeepsIt) {
  const Words book = save(1, 300, "book");
  save(1, 256, "start");
  const json shown = run_json({"session", "show", "book"});
  EXPECT_EQ(shown["tokens"], 300);
  EXPECT_EQ(shown["model_fingerprint"], "00000000000000020000000000000001");
  ASSERT_EQ(shown["packs"].size(), 2u);
  EXPECT_EQ(shown["packs"][0]["name"], book[0]);
  EXPECT_EQ(shown["packs"][0]["shared_with"], json({"start"}));
  EXPECT_EQ(shown["packs"][1]["first_pos"], 256);
  EXPECT_EQ(shown["packs"][1]["tokens"], 44);
  EXPECT_EQ(shown["packs"][1]["bytes"], bytes_of(book[1]));
  EXPECT_EQ(shown["packs"][1]["shared_with"], json::array());
  const Outcome outcome = run({"session", "show", "book"});
  EXPECT_NE(outcome.out.find("tokens   300 in 2 packs\n"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("\n" + book[1].substr(0, 12) + "  "), std::string::npos);
  std::filesystem::remove(path_of(book[1]));
  EXPECT_EQ(run_json({"session", "show", "book"})["packs"][1]["problem"], "the file is missing");
  flip_byte("book.session", 60);
  expect_refused(in_directory({"session", "show", "book"}),
                 {4, "bad_file", {"hash differs"}, "book.session", "Remove it by its name"});
}

TEST_F(SavedContexts, SessionRemoveKeepsWhatOthersKeepAndSaysTheBytes) {
  const Words book = save(1, 300, "book");
  save(1, 256, "start");
  const uint64_t bytes = bytes_of(book[1]) + bytes_of("book.session");
  const json removed = run_json({"session", "rm", "book"});
  EXPECT_EQ(removed["bytes"], bytes);
  EXPECT_EQ(removed["removed"], json({{{"name", "book"}, {"bytes", bytes}}}));
  EXPECT_EQ(files(), (Words{book[0], "start.session"}));
  save(2, 40, "-odd");
  EXPECT_EQ(run_strata({"session", "rm", "--session-dir", fresh_.path(), "start", "--", "-odd"})
                .exit_code,
            0);
  EXPECT_TRUE(files().empty());
}

TEST_F(SavedContexts, SessionRemoveTakesSeveralNamesOrAllAndDamagedOnes) {
  for (const char* name : {"a", "b", "c", "d"}) save(static_cast<uint64_t>(name[0]), 40, name);
  flip_byte("c.session", 60);
  const Outcome outcome = run({"session", "rm", "a", "c", "a"});
  EXPECT_EQ(outcome.exit_code, 0) << outcome.err;
  EXPECT_TRUE(std::regex_match(outcome.out, std::regex("removed a: .* given back\n"
                                                       "removed c: .* given back\n"
                                                       "2 sessions removed, .* given back\n")))
      << outcome.out;
  EXPECT_EQ(run_json({"session", "rm", "--all"})["removed"].size(), 2u);
  EXPECT_EQ(run_json({"session", "list"}), json::array());
  EXPECT_EQ(run_json({"cache", "rm", "--all"})["removed"].size(), 1u);  // c's pack
  EXPECT_TRUE(files().empty());
}

TEST_F(SavedContexts, AnUnknownSessionIsRefusedBeforeAnyOtherIsRemoved) {
  save(1, 40, "book-one");
  save(2, 40, "book-two");
  expect_usage({"session", "rm", "book-one", "bok-two"}, "there is no session 'bok-two'",
               fresh_.path(), "did you mean book-two?");
  expect_usage({"session", "show", "book"}, "there is no session 'book'", fresh_.path(),
               "did you mean book-one or book-two?");
  expect_usage({"session", "verify", "zebra"}, "there is no session 'zebra'", fresh_.path(),
               "`strata session list`");
  EXPECT_EQ(run_json({"session", "list"}).size(), 2u);
}

TEST_F(SavedContexts, NamesThatReachOtherFilesAreRefused) {
  save(1, 40, "book");
  for (const std::string name : {"../book", "/etc/passwd", "a/b", ".", "..", ".hidden", "a b"})
    for (const char* verb : {"show", "rm", "verify"})
      expect_usage({"session", verb, "--name=" + name}, "cannot be the name of a session", name,
                   "letters, digits");
  for (const std::string name : {"../book.session", "book.session", "*", ".lock", ""})
    expect_usage({"cache", "rm", "--name=" + name}, "there is no pack '" + name + "'",
                 fresh_.path(), "`strata cache list`");
  EXPECT_EQ(files().size(), 2u);
}

TEST_F(SavedContexts, VerifyReadsEveryBlockAndExitsWithFourWhereOneIsWrong) {
  const Words book = save(1, 300, "book");
  const Words loose = save(2, 40);
  save(3, 40, "whole");
  EXPECT_EQ(run({"session", "verify"}).exit_code, 0);
  flip_byte(book[1], 0);
  EXPECT_EQ(run_json({"session", "list"})[0]["verified"], true);  // no block is read for a list
  const json verified = run_json({"session", "verify"}, 4);
  EXPECT_EQ(verified["packs"], 4);
  EXPECT_EQ(verified["sessions"], 2);
  EXPECT_EQ(verified["bytes"],
            bytes_of(book[0]) + bytes_of(book[1]) + bytes_of(loose[0]) + bytes_of(save(3, 40)[0]));
  ASSERT_EQ(verified["bad"].size(), 1u);
  EXPECT_EQ(verified["bad"][0]["kind"], "pack");
  EXPECT_EQ(verified["bad"][0]["name"], book[1]);
  EXPECT_EQ(verified["bad"][0]["bad_blocks"], 1);
  EXPECT_EQ(verified["bad"][0]["sessions"], json({"book"}));
  const Outcome outcome = run({"session", "verify"});
  EXPECT_EQ(outcome.exit_code, 4);
  EXPECT_NE(outcome.out.find("NOT WHOLE pack " + book[1] +
                             ": 1 blocks are not what was saved (kept by book)\n"),
            std::string::npos)
      << outcome.out;
}

TEST_F(SavedContexts, VerifyOfOneSessionLooksAtItsPacksOnly) {
  save(1, 300, "book");
  const Words loose = save(2, 40);
  const Words gone = save(3, 40, "gone");
  save(4, 40, "broken");
  flip_byte(loose[0], 0);
  std::filesystem::remove(path_of(gone[0]));
  flip_byte("broken.session", 60);
  EXPECT_EQ(run_json({"session", "verify", "book"})["packs"], 2);
  const json of_gone = run_json({"session", "verify", "gone"}, 4);
  ASSERT_EQ(of_gone["bad"].size(), 1u);
  EXPECT_EQ(of_gone["bad"][0]["kind"], "session");
  EXPECT_EQ(of_gone["bad"][0]["problem"], "1 of 1 pack missing");
  EXPECT_EQ(run({"session", "verify", "broken"}).exit_code, 4);
  EXPECT_EQ(run_json({"session", "verify"}, 4)["bad"].size(), 3u);
}

TEST_F(SavedContexts, CacheListHasPacksAndTotals) {
  const Words book = save(1, 300, "book");
  const Words loose = save(2, 40);
  std::filesystem::resize_file(path_of(loose[0]), 100);
  const json list = run_json({"cache", "list", "--cache-budget", "3MiB"});
  ASSERT_EQ(list["packs"].size(), 3u);
  uint64_t n_tokens = 0;
  for (const json& pack : list["packs"]) {
    const std::string name = pack["name"];
    const bool is_loose = name == loose[0];
    n_tokens += pack["tokens"].get<uint64_t>();
    EXPECT_EQ(pack["bytes"], bytes_of(name));
    EXPECT_EQ(pack["pinned_by"], is_loose ? json::array() : json({"book"}));
    EXPECT_EQ(pack.contains("problem"), is_loose);
    EXPECT_EQ(pack["last_use"].get<std::string>().size(), 20u);
  }
  EXPECT_EQ(n_tokens, 300u);
  EXPECT_EQ(list["used_bytes"],
            bytes_of(book[0]) + bytes_of(book[1]) + bytes_of(loose[0]) + bytes_of("book.session"));
  EXPECT_EQ(list["budget_bytes"], 3 << 20);
  EXPECT_GT(list["free_bytes"], 0);
  const Outcome outcome = run({"cache", "list"});
  EXPECT_NE(outcome.out.find("300 tokens in 3 packs; "), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find(" of 20.0 GiB used; the disk has "), std::string::npos);
  EXPECT_NE(outcome.out.find("NOT WHOLE: "), std::string::npos);
}

TEST_F(SavedContexts, CacheRemoveTakesTheBeginningOfANameAndLeavesWhatSessionsKeep) {
  const Words book = save(1, 300, "book");
  const Words loose = save(2, 300);
  expect_usage({"cache", "rm", loose[0].substr(0, 12), book[0].substr(0, 12)}, "is kept by book",
               fresh_.path(), "`strata session rm book`");
  expect_usage({"cache", "rm", loose[0].substr(0, 3)}, "there is no pack", fresh_.path(),
               "at least 4 digits");
  EXPECT_EQ(files().size(), 5u);
  const uint64_t bytes = bytes_of(loose[0]);
  const json removed = run_json({"cache", "rm", loose[0].substr(0, 12)});
  EXPECT_EQ(removed["bytes"], bytes);
  EXPECT_EQ(removed["removed"], json({{{"name", loose[0]}, {"bytes", bytes}}}));
  const Outcome outcome = run({"cache", "rm", "--all"});
  EXPECT_EQ(outcome.exit_code, 0);
  EXPECT_TRUE(outcome.out.starts_with("removed " + loose[1].substr(0, 12) + ": ")) << outcome.out;
  EXPECT_NE(outcome.out.find("\n1 pack removed, "), std::string::npos) << outcome.out;
  EXPECT_TRUE(outcome.err.starts_with("2 packs kept by sessions")) << outcome.err;
  EXPECT_EQ(files().size(), 3u);
}

TEST_F(SavedContexts, ABeginningThatSeveralPacksShareIsRefused) {
  const Words loose = save(2, 40);
  std::filesystem::copy_file(path_of(loose[0]), path_of(loose[0].substr(0, 60) + "00000.pack"));
  expect_usage({"cache", "rm", loose[0].substr(0, 12)}, "the names of 2 packs begin with",
               fresh_.path(), "more digits");
  const Outcome listed = run({"cache", "list"});
  EXPECT_NE(listed.out.find(loose[0].substr(0, 61)), std::string::npos) << listed.out;
  EXPECT_EQ(run({"cache", "rm", loose[0]}).exit_code, 0);
  EXPECT_EQ(files().size(), 1u);
}

TEST_F(SavedContexts, WhatIsToBeRemovedMustBeSaid) {
  expect_usage({"session", "rm"}, "no session is named", "strata session rm", "session list");
  expect_usage({"session", "show"}, "no session is named", "strata session show", "session list");
  expect_usage({"session", "show", "a", "b"}, "there is no session 'a'", fresh_.path(), "");
  save(1, 40, "a");
  save(2, 40, "b");
  expect_usage({"session", "show", "a", "b"}, "2 sessions are named", "strata session show",
               "name one");
  expect_usage({"cache", "rm"}, "no pack is named", "strata cache rm", "--all");
  expect_usage({"session", "rm", "a", "--all"}, "--name and --all contradict", "--all", "leave");
  expect_usage({"session", "list", "a"}, "unexpected argument 'a'", "strata session list",
               "--help");
  expect_usage({"session", "rm", "--frobnicate"}, "unknown option --frobnicate",
               "strata session rm", "--help");
}

TEST_F(SavedContexts, AGroupOfVerbsHasItsOwnHelpAndSaysWhatWasPerhapsMeant) {
  for (const Words& words : {Words{"session", "--help"}, Words{"help", "session"}}) {
    const Outcome outcome = run_strata(words);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_NE(outcome.out.find("\n  session verify "), std::string::npos) << outcome.out;
    EXPECT_EQ(outcome.out.find("cache"), std::string::npos) << outcome.out;
  }
  for (const Words& words : {Words{"session", "rm", "--help"}, Words{"help", "session", "rm"}}) {
    const Outcome outcome = run_strata(words);
    EXPECT_EQ(outcome.exit_code, 0);
    EXPECT_TRUE(outcome.out.starts_with("strata session rm - ")) << outcome.out;
    EXPECT_NE(outcome.out.find("--session-dir DIR"), std::string::npos) << outcome.out;
  }
  expect_line(run_strata({"session"}),
              {2,
               "usage",
               {"wanted save or list or show or rm or verify after 'session', found nothing"},
               "strata session",
               "`strata session --help`"});
  expect_refused(Words{"session", "lst"}, {2,
                                           "usage",
                                           {"unknown verb 'session lst', wanted save or list"},
                                           "strata session",
                                           "did you mean `strata session list`?"});
  expect_refused(
      Words{"sesion", "list"},
      {2, "usage", {"unknown verb 'sesion'"}, "strata", "did you mean `strata session`?"});
}

}  // namespace
}  // namespace strata::cli
