# Libraries of the distribution, static where it has the archive, each under a name of ours.
set(CMAKE_FIND_LIBRARY_SUFFIXES .a .so)
set(Boost_USE_STATIC_LIBS ON)
set(Protobuf_USE_STATIC_LIBS ON)

find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(Boost REQUIRED COMPONENTS program_options)
find_package(Eigen3 REQUIRED NO_MODULE)
# LibTorch's folder, usually in CMAKE_PREFIX_PATH, holds the compiler and headers of another protobuf without its
# library: it is left out while protobuf is looked for.
set(prefix_path "${CMAKE_PREFIX_PATH}")
set(environment_prefix_path "$ENV{CMAKE_PREFIX_PATH}")
list(FILTER CMAKE_PREFIX_PATH EXCLUDE REGEX "torch[^/]*/?$")
unset(ENV{CMAKE_PREFIX_PATH})
find_package(Protobuf REQUIRED)
set(CMAKE_PREFIX_PATH "${prefix_path}")
set(ENV{CMAKE_PREFIX_PATH} "${environment_prefix_path}")

# retort_find_static(NAME header library): an imported target retort::NAME.
function(retort_find_static name header library)
  find_path(RETORT_${name}_INCLUDE ${header} REQUIRED)
  find_library(RETORT_${name}_LIBRARY ${library} REQUIRED)
  add_library(retort::${name} UNKNOWN IMPORTED GLOBAL)
  set_target_properties(retort::${name} PROPERTIES
    IMPORTED_LOCATION "${RETORT_${name}_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${RETORT_${name}_INCLUDE}")
endfunction()
retort_find_static(xxhash xxhash.h xxhash)
retort_find_static(pcre2 pcre2.h pcre2-8)
target_compile_definitions(retort::pcre2 INTERFACE PCRE2_STATIC PCRE2_CODE_UNIT_WIDTH=8)
retort_find_static(utf8proc utf8proc.h utf8proc)
target_compile_definitions(retort::utf8proc INTERFACE UTF8PROC_STATIC)
retort_find_static(yaml yaml-cpp/yaml.h yaml-cpp)

if(RETORT_TORCH)
  include(Torch)
  find_path(RETORT_HDF5_INCLUDE hdf5.h PATH_SUFFIXES hdf5/serial REQUIRED)
  find_library(RETORT_HDF5_LIBRARY hdf5 PATH_SUFFIXES hdf5/serial REQUIRED)
  # Its compressors, static too. curl and crypto serve remote files, which we never open: nothing of them is linked.
  foreach(library sz aec z)
    find_library(RETORT_HDF5_${library} ${library} REQUIRED)
    list(APPEND RETORT_HDF5_NEEDS "${RETORT_HDF5_${library}}")
  endforeach()
  add_library(retort::hdf5 UNKNOWN IMPORTED GLOBAL)
  set_target_properties(retort::hdf5 PROPERTIES
    IMPORTED_LOCATION "${RETORT_HDF5_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${RETORT_HDF5_INCLUDE}"
    INTERFACE_LINK_LIBRARIES "${RETORT_HDF5_NEEDS};curl;crypto;dl;m")
endif()
