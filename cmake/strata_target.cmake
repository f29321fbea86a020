# Flags every target of ours is built with. Warnings are errors; the sources name fused multiply-adds themselves, because a
# contraction chosen by the compiler would make a row's bits depend on the loop it was computed in (law L1).
add_library(strata_flags INTERFACE)
target_include_directories(strata_flags INTERFACE ${PROJECT_SOURCE_DIR})
# Of a file's name what STRATA_CHECK prints is its place in the tree: the same code wherever the tree lies, and so the same
# entry of a compiler cache (a unity file names its sources by their absolute paths).
target_compile_options(strata_flags INTERFACE -fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=)
target_compile_options(strata_flags INTERFACE -Wall -Wextra -Wconversion -Wsign-conversion -Wshadow
  -Wnon-virtual-dtor -Woverloaded-virtual -ffp-contract=off)
# g++ 12 sees overlaps and overflows in std::string and std::vector that are not there (GCC bugs 105651, 105329).
target_compile_options(strata_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict -Wno-stringop-overflow>)
if(CMAKE_UNITY_BUILD)  # there every source is an included file, whose unnamed namespaces g++ takes for a header's
  target_compile_options(strata_flags INTERFACE $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
endif()
# A sanitizer changes the code that g++ warns about (a shift it checks loses its constant), and clang knows other
# warnings: the plain g++ builds judge, where warnings are errors.
if(NOT STRATA_SANITIZE)
  target_compile_options(strata_flags INTERFACE -Werror)
else()
  target_compile_options(strata_flags INTERFACE -fsanitize=${STRATA_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  target_link_options(strata_flags INTERFACE -fsanitize=${STRATA_SANITIZE})
endif()
if(STRATA_FUZZ)
  target_compile_options(strata_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(STRATA_DEBUG_CHECKS)
  target_compile_definitions(strata_flags INTERFACE STRATA_DEBUG_CHECKS=1 _GLIBCXX_ASSERTIONS)
endif()

# strata_library(NAME deps...): the library of one top-level folder, from every .cc below it.
function(strata_library name)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  add_library(strata_${name} STATIC ${sources})
  add_library(strata::${name} ALIAS strata_${name})
  target_link_libraries(strata_${name} PUBLIC strata_flags ${ARGN})
endfunction()
