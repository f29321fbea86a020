#include "tools/makers/ledger_text.h"

#include <fmt/format.h>

#include <array>
#include <random>
#include <vector>

#include "base/check.h"

namespace strata::makers {
namespace {

constexpr uint32_t kSeed = 1871;
constexpr uint32_t kRepeatOneIn = 9;

constexpr std::array kContents = {"walnut oil",   "red wine",     "cider",       "vinegar",
                                  "salted plums", "honey",        "olive brine", "linseed oil",
                                  "pear brandy",  "pickled herbs"};
constexpr std::array kOrigins = {"Ragusa",           "Lisbon", "the abbey", "Trieste",
                                 "the upper valley", "Bergen", "Genoa"};
constexpr std::array kPlaces = {"the north cellar", "the long vault", "the cold room",
                                "the shed by the wall", "the room under the stairs"};
constexpr std::array kRemarks = {
    "The lid was sealed with wax.",         "Two staves are cracked.", "It was weighed twice.",
    "The carter asked to be paid at once.", "One hoop is missing.",    "Nothing to remark.",
};

/// A draw in [0, n), the same everywhere: std::uniform_int_distribution is not.
uint32_t draw(std::mt19937& random, size_t n) { return static_cast<uint32_t>(random() % n); }

struct Barrel {
  uint32_t number = 0;
  std::string contents;
};

}  // namespace

std::string ledger_text(uint32_t n_entries) {
  STRATA_CHECK(n_entries >= 10, "%u entries", n_entries);
  std::mt19937 random(kSeed);
  std::vector<Barrel> barrels;
  std::string text = "Ledger of the cellar, kept by the steward.\n";
  uint32_t number = 1000;
  for (uint32_t entry = 0; entry < n_entries; ++entry) {
    if (entry > 0 && draw(random, kRepeatOneIn) == 0) {
      const Barrel& barrel = barrels[draw(random, barrels.size())];
      text += fmt::format("Looked again at barrel {}: still {}.\n", barrel.number, barrel.contents);
    }
    number += 1 + draw(random, 11);  // no number comes twice
    barrels.push_back({number, kContents[draw(random, kContents.size())]});
    const uint32_t litres = 20 + draw(random, 180);
    const auto* origin = kOrigins[draw(random, kOrigins.size())];
    const auto* place = kPlaces[draw(random, kPlaces.size())];
    const auto* remark = kRemarks[draw(random, kRemarks.size())];
    text += fmt::format("Barrel {} holds {}, {} litres, from {}, put in {}. {}\n", number,
                        barrels.back().contents, litres, origin, place, remark);
  }
  const auto at = [&](uint32_t tenths) { return barrels[barrels.size() * tenths / 10]; };
  text += fmt::format(
      "The count of the cellar, read from the lines above.\nBarrel {} holds {}.\nBarrel {} holds "
      "{}.\nBarrel {} holds",
      at(5).number, at(5).contents, at(7).number, at(7).contents, at(1).number);
  return text;
}

}  // namespace strata::makers
