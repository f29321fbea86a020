# One file of this folder: its good twin compiles, its misuse does not, and for the reason that the file names in its
# line `// Expected error: REGEX`. Only the front end runs.
#   cmake -D COMPILER=c++ -D FLAGS=a|b -D INCLUDE=root -D SOURCE=file.cc -P check.cmake
string(REPLACE "|" ";" flags "${FLAGS}")
set(ENV{LC_ALL} C)  # plain quotes in messages
file(STRINGS ${SOURCE} expected REGEX "^// Expected error: ")
string(REGEX REPLACE "^// Expected error: " "" expected "${expected}")
if(expected STREQUAL "")
  message(FATAL_ERROR "${SOURCE} names no expected error")
endif()
foreach(definition STRATA_GOOD STRATA_MISUSE)
  execute_process(COMMAND ${COMPILER} -std=c++20 ${flags} -Werror -fsyntax-only -D${definition} -I${INCLUDE} ${SOURCE}
    RESULT_VARIABLE result ERROR_VARIABLE errors)
  if(definition STREQUAL STRATA_GOOD AND NOT result EQUAL 0)
    message(FATAL_ERROR "the good twin of ${SOURCE} does not compile:\n${errors}")
  elseif(definition STREQUAL STRATA_MISUSE AND result EQUAL 0)
    message(FATAL_ERROR "the misuse in ${SOURCE} compiles")
  elseif(definition STREQUAL STRATA_MISUSE AND NOT errors MATCHES "error: (${expected})")
    message(FATAL_ERROR "${SOURCE} does not compile, but not because of\n  ${expected}\n${errors}")
  endif()
endforeach()
