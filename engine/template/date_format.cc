#include "engine/template/date_format.h"

#include <fmt/format.h>

#include <array>
#include <charconv>

namespace strata::engine::jinja {
namespace {

constexpr std::array<std::string_view, 12> kMonths = {
    "January", "February", "March",     "April",   "May",      "June",
    "July",    "August",   "September", "October", "November", "December"};
constexpr std::array<std::string_view, 7> kDays = {"Sunday",   "Monday", "Tuesday", "Wednesday",
                                                   "Thursday", "Friday", "Saturday"};

bool is_leap(int year) { return year % 4 == 0 && (year % 100 != 0 || year % 400 == 0); }

int days_in_month(int year, int month) {
  constexpr std::array<int, 12> kLengths = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  return month == 2 && is_leap(year) ? 29 : kLengths[static_cast<size_t>(month - 1)];
}

int day_of_year(const Date& date) {
  int days = date.day;
  for (int month = 1; month < date.month; ++month) days += days_in_month(date.year, month);
  return days;
}

// 0 = Sunday. January 1 of year 1 (Gregorian, extended backwards) was a Monday.
size_t day_of_week(const Date& date) {
  const int before = date.year - 1;
  return static_cast<size_t>(
      (before * 365 + before / 4 - before / 100 + before / 400 + day_of_year(date)) % 7);
}

bool read_number(std::string_view text, size_t at, size_t digits, int* out) {
  if (text.size() < at + digits) return false;
  const char* end = text.data() + at + digits;
  const auto result = std::from_chars(text.data() + at, end, *out);
  return result.ec == std::errc() && result.ptr == end && *out >= 0;
}

// A number of `width` digits with zeros before it; without them where `is_bare`.
std::string padded(int value, int width, bool is_bare) {
  return is_bare ? fmt::format("{}", value) : fmt::format("{:0{}}", value, width);
}

bool append_field(const Date& date, char field, bool is_bare, std::string* out) {
  const std::string_view month = kMonths[static_cast<size_t>(date.month - 1)];
  const std::string_view day = kDays[day_of_week(date)];
  const int hour12 = date.hour % 12 == 0 ? 12 : date.hour % 12;
  switch (field) {
    case 'a':
      *out += day.substr(0, 3);
      return true;
    case 'A':
      *out += day;
      return true;
    case 'b':
      *out += month.substr(0, 3);
      return true;
    case 'B':
      *out += month;
      return true;
    case 'd':
      *out += padded(date.day, 2, is_bare);
      return true;
    case 'e':
      *out += is_bare ? padded(date.day, 2, true) : fmt::format("{:2}", date.day);
      return true;
    case 'F':
      *out += fmt::format("{}-{:02}-{:02}", date.year, date.month, date.day);
      return true;
    case 'H':
      *out += padded(date.hour, 2, is_bare);
      return true;
    case 'I':
      *out += padded(hour12, 2, is_bare);
      return true;
    case 'j':
      *out += padded(day_of_year(date), 3, is_bare);
      return true;
    case 'm':
      *out += padded(date.month, 2, is_bare);
      return true;
    case 'M':
      *out += padded(date.minute, 2, is_bare);
      return true;
    case 'p':
      *out += date.hour < 12 ? "AM" : "PM";
      return true;
    case 'S':
      *out += padded(date.second, 2, is_bare);
      return true;
    case 'T':
      *out += fmt::format("{:02}:{:02}:{:02}", date.hour, date.minute, date.second);
      return true;
    case 'y':
      *out += padded(date.year % 100, 2, is_bare);
      return true;
    case 'Y':
      *out += fmt::format("{}", date.year);
      return true;
    case '%':
      *out += '%';
      return true;
    default:
      return false;
  }
}

}  // namespace

std::optional<Date> parse_date(std::string_view iso) {
  Date date;
  const bool has_day = iso.size() >= 10 && read_number(iso, 0, 4, &date.year) && iso[4] == '-' &&
                       read_number(iso, 5, 2, &date.month) && iso[7] == '-' &&
                       read_number(iso, 8, 2, &date.day);
  if (!has_day || date.year < 1 || date.month < 1 || date.month > 12) return std::nullopt;
  if (date.day < 1 || date.day > days_in_month(date.year, date.month)) return std::nullopt;
  if (iso.size() == 10) return date;
  const bool has_time = iso.size() == 19 && (iso[10] == 'T' || iso[10] == ' ') && iso[13] == ':' &&
                        iso[16] == ':' && read_number(iso, 11, 2, &date.hour) &&
                        read_number(iso, 14, 2, &date.minute) &&
                        read_number(iso, 17, 2, &date.second);
  if (!has_time || date.hour > 23 || date.minute > 59 || date.second > 60) return std::nullopt;
  return date;
}

bool format_date(const Date& date, std::string_view format, std::string* out) {
  for (size_t at = 0; at < format.size(); ++at) {
    if (format[at] != '%') {
      *out += format[at];
      continue;
    }
    if (++at >= format.size()) return false;
    const bool is_bare = format[at] == '-';
    if (is_bare && ++at >= format.size()) return false;
    if (!append_field(date, format[at], is_bare, out)) return false;
  }
  return true;
}

}  // namespace strata::engine::jinja
