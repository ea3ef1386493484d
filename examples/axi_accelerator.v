// Asks the accelerator what it is: the words of its answer, as `Identity` in rtl/commands.py lays them out.
//   quaver verilog axi_accelerator --rows 4 --columns 4 -o axi_accelerator.v
module identify (input clk, input resetn, output [31:0] word, output valid, output last);
    reg asked = 0;
    wire taken;
    always @(posedge clk) asked <= resetn & (asked | taken);

    axi_accelerator accelerator (
        .aclk(clk), .aresetn(resetn),
        // Control is not used here: nothing is written, nothing read.
        .s_axi_awvalid(1'b0), .s_axi_awaddr(12'd0), .s_axi_awready(),
        .s_axi_wvalid(1'b0), .s_axi_wdata(32'd0), .s_axi_wstrb(4'd0), .s_axi_wready(),
        .s_axi_bvalid(), .s_axi_bresp(), .s_axi_bready(1'b1),
        .s_axi_arvalid(1'b0), .s_axi_araddr(12'd0), .s_axi_arready(),
        .s_axi_rvalid(), .s_axi_rdata(), .s_axi_rresp(), .s_axi_rready(1'b1),
        // The command IDENTIFY, once; its response is one packet.
        .s_axis_tvalid(resetn & ~asked), .s_axis_tdata(32'h5101_0000), .s_axis_tready(taken),
        .m_axis_tvalid(valid), .m_axis_tdata(word), .m_axis_tlast(last), .m_axis_tready(1'b1)
    );
endmodule
