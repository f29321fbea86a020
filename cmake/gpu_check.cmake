# gpu_check_program(NAME DEVICE_SOURCE deps...): the program that judges and times kernels on a device, made of the cases
# of tests/gpu_attn, the benches of tools/gpu and the source that says which device. Shared by the tests, where it is the
# emulator, and by tools/gpu, where it is a card. Of cpu_attn both have the packing of weights and the plain kernels of
# retrieval, of the engine what says who gets a device's memory: what a bare machine has to compile.
set(gpu_check_root ${CMAKE_CURRENT_LIST_DIR}/..)
function(gpu_check_program name device_source)
  file(GLOB sources CONFIGURE_DEPENDS ${gpu_check_root}/tests/gpu_attn/*.cc ${gpu_check_root}/tools/gpu/*.cc)
  list(FILTER sources EXCLUDE REGEX "_test\\.cc$")
  list(APPEND sources ${gpu_check_root}/tests/gpu_attn/under_test.cc ${gpu_check_root}/cpu_attn/pack.cc
       ${gpu_check_root}/cpu_attn/pack_turned.cc ${gpu_check_root}/cpu_attn/index_scalar.cc
       ${gpu_check_root}/engine/device_plan.cc ${gpu_check_root}/engine/byte_text.cc)
  if(strata_gpu_cases IN_LIST ARGN)  # the tests have compiled them
    list(FILTER sources EXCLUDE REGEX "/tests/gpu_attn/")
  endif()
  add_executable(${name} ${sources} ${gpu_check_root}/tests/gpu_check/gpu_check.cc
    ${gpu_check_root}/tests/gpu_check/${device_source})
  target_link_libraries(${name} PRIVATE ${ARGN})
endfunction()
