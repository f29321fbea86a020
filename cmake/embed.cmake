# cmake -D SOURCE=file -D FUNCTION=name -D HEADER=path -D OUTPUT=file.cc -P embed.cmake: a source file whose function
# strata::serve::FUNCTION() gives the bytes of SOURCE.
file(READ "${SOURCE}" text)
file(WRITE "${OUTPUT}" "#include \"${HEADER}\"
namespace strata::serve {
std::string_view ${FUNCTION}() { return R\"embedded(${text})embedded\"; }
}
")
