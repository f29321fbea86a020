# The module strata_cuda.so: the kernels, the table and a CUDA runtime of its own. Wants nvcc. STRATA_CUDA_ARCHITECTURES
# says for which cards, as CMAKE_CUDA_ARCHITECTURES does. Shared with tools/gpu, which builds it without the rest.
# Code of a card runs on those of its generation with a higher minor number: 8.6 on 8.7, 12.0 on 12.1. For generations
# between and beyond those named (10.0, 11.0, the next) there is PTX, which the driver compiles at the first start, once;
# it goes to newer cards only, so it is that of 9.0: of 12.0 it would leave out 10.0 and 11.0, and no kernel asks for more
# than 8.0 has. A driver that is older than this nvcc takes the code and refuses the PTX.
if(STRATA_RELEASE_CUDA)
  set(cuda_architectures "80-real;86-real;89-real;90;120-real")
else()
  set(cuda_architectures "86-real;90-real;120-real")
endif()
set(STRATA_CUDA_ARCHITECTURES "${cuda_architectures}" CACHE STRING "Cards that the CUDA module has code for")
set(CMAKE_CUDA_ARCHITECTURES "${STRATA_CUDA_ARCHITECTURES}")
if(CCACHE_PROGRAM)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CCACHE_PROGRAM})
endif()
set(CMAKE_CUDA_FLAGS_RELEASE "-O2 -DNDEBUG")
enable_language(CUDA)
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc has it
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
endif()

set(gpu_attn_folder ${CMAKE_CURRENT_LIST_DIR}/../gpu_attn)
set(base_folder ${CMAKE_CURRENT_LIST_DIR}/../base)
file(GLOB cuda_sources CONFIGURE_DEPENDS ${gpu_attn_folder}/*.cu)
# What the module needs of the host's code is compiled into it: the libraries' code is not made for a shared object.
add_library(strata_cuda MODULE ${cuda_sources} ${gpu_attn_folder}/cuda_errors.cc ${base_folder}/check.cc
  ${base_folder}/kv_layout.cc ${base_folder}/tensor_type.cc)
target_include_directories(strata_cuda PRIVATE ${CMAKE_CURRENT_LIST_DIR}/..)
set_target_properties(strata_cuda PROPERTIES PREFIX "" CUDA_RUNTIME_LIBRARY Static CUDA_SEPARABLE_COMPILATION OFF
  CXX_STANDARD 20 CXX_EXTENSIONS OFF CUDA_STANDARD 20 CUDA_EXTENSIONS OFF
  CUDA_ARCHITECTURES "${STRATA_CUDA_ARCHITECTURES}" CXX_VISIBILITY_PRESET hidden CUDA_VISIBILITY_PRESET hidden
  VISIBILITY_INLINES_HIDDEN ON UNITY_BUILD OFF)
# A kernel that spills or keeps an array in local memory does not compile.
target_compile_options(strata_cuda PRIVATE
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xptxas -warn-spills,-warn-lmem-usage,-Werror>"
  "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler -Wall,-Wextra,-Wshadow,-Werror>"
  $<$<COMPILE_LANGUAGE:CXX>:-Wall;-Wextra;-Wconversion;-Wsign-conversion;-Wshadow;-Werror;-ffp-contract=off>)
if(NOT STRATA_RELEASE_CUDA)  # tests/gpu_gates reads the code of the cards out of the module
  target_compile_options(strata_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:--no-compress>)
endif()
target_link_options(strata_cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,-z,defs -Wl,-z,now)
