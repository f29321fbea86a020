// engine/template/date_format.h - dates as strftime lays them out, in English and independent of
// locale and time zone.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace strata::engine::jinja {

struct Date {
  int year = 1970, month = 1, day = 1;
  int hour = 0, minute = 0, second = 0;
};

/// From "YYYY-MM-DD", with "THH:MM:SS" or " HH:MM:SS" behind it or not; nothing where it is no date
/// of the calendar.
std::optional<Date> parse_date(std::string_view iso);

/// Fields %a %A %b %B %d %e %F %H %I %j %m %M %p %S %T %y %Y %%, numbers also without leading zeros
/// as %-d. False where the format holds another field.
bool format_date(const Date& date, std::string_view format, std::string* out);

}  // namespace strata::engine::jinja
